"""The step journal of a host that asks the driver: what it looks up and keeps goes over their link, many at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage.errors import SageError, StorageError
from sage.flow.graph import StepPlan
from sage.runtime.control import Aborted
from sage.runtime.durability.journals import Journals
from sage.runtime.durability.recording import Recorder
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.slots import Slots
from sage.runtime.durable import Branch, FarBranch, Keep, Look, Question

Ask = Callable[[Question], Any]
"""Ask the driver, and wait for its answer. Raises what became of it there."""


class FarJournals(Journals):
    """`failed` gets the first error of the journal, from another thread."""

    def __init__(
        self, branch: FarBranch, host: str, ask: Ask, tell: Callable[[Question], None],
        failed: Callable[[SageError], None],
    ) -> None:  # fmt: skip
        """`tell` sends what nobody waits for."""
        super().__init__(branch.epoch, host)
        self._branch = branch
        self._tell = tell
        self._known = set(branch.known)
        self._deaths = branch.deaths
        self._rows = FarRows(ask)
        self._blobs = AtHome()
        self._folder = tempfile.TemporaryDirectory(prefix="sage-calls-")
        self._slots = Slots(Path(self._folder.name, str(os.getpid())))
        self._recorder = Recorder(self._rows, self._blobs, failed)

    @property
    def job(self) -> str:
        return self._branch.job

    def branch(self) -> Branch | None:
        return None

    def close(self) -> None:
        """Store what is left, and let go of everything. Nobody may be waiting for the driver's answers any more."""
        self._recorder.close()
        if bill := self._bill():
            self._tell(Keep(bill))
        self._slots.close()
        self._folder.cleanup()

    def _version(self, plan: StepPlan) -> str:
        return self._branch.versions[plan.name]


class FarRows:
    """Rows of the driver."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def get(self, kind: RowKind, key: bytes) -> bytes | None:
        """Of a result, the only kind that hosts look up."""
        assert kind is RowKind.RESULT
        found: bytes | None = self._ask(Look(key))
        return found

    def apply(self, changes: list[Change]) -> None:
        """All of them are on the driver's disk when this returns. Raises `StorageError`."""
        try:
            self._ask(Keep(changes))
        except Aborted:  # the journal's thread tells its end in another way
            raise StorageError("E603", "the run was given up before the journal had stored everything") from None


class AtHome:
    """What is too large for a row is the driver's business."""

    def stored(self, value: bytes) -> bytes:
        return value

    def loaded(self, stored: bytes) -> bytes:
        return stored
