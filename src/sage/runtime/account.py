"""The account of a run: every record that was read or made has exactly one end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """Counted where things happen: `read` at sources, `written` at sinks, and so on; none is derived from another.

    ``read + created = written + dead_lettered + filtered + merged + unfinished`` or something was lost.
    """

    read: int = 0
    created: int = 0
    """Children beyond the first of `flat_map`, copies where a stream is used twice, results of reductions."""
    written: int = 0
    """Accepted by a sink, or collected."""
    dead_lettered: int = 0
    filtered: int = 0
    """Dropped by a `filter`, or turned into no record by a `flat_map`."""
    merged: int = 0
    """Taken up by a reduction."""
    unfinished: int = 0
    """Still open when the run was stopped or failed; 0 after a run that succeeded."""

    @property
    def missing(self) -> int:
        """Records without an end; anything but 0 is a defect."""
        ends = self.written + self.dead_lettered + self.filtered + self.merged + self.unfinished
        return self.read + self.created - ends

    def __str__(self) -> str:
        left = f"read {self.read:,}" + (f" + created {self.created:,}" if self.created else "")
        right = [f"written {self.written:,}", f"dead-lettered {self.dead_lettered:,}", f"filtered {self.filtered:,}"]
        right += [f"merged {self.merged:,}"] if self.merged else []
        right += [f"unfinished {self.unfinished:,}"] if self.unfinished else []
        return f"{left} = {' + '.join(right)}"
