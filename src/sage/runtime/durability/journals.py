"""The step journals of one host: what is the same whether it has the files or asks the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage import codec
from sage.flow.graph import StepPlan
from sage.flow.step import Kind
from sage.runtime.durability.billing import Counts, add
from sage.runtime.durability.memo import Shared, StepJournal
from sage.runtime.durability.recording import BlobStore, Recorder, RowStore
from sage.runtime.durability.reuse import question_of
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.slots import Slots
from sage.runtime.durable import Durability, Kept, Progress, Results


class Journals(Durability):
    """Whoever derives from it opens the parts."""

    _rows: RowStore
    _blobs: BlobStore
    _recorder: Recorder
    _slots: Slots
    _known: set[bytes]
    _deaths: Mapping[bytes, int]
    _reuse: Shared | None = None
    _entered: Callable[[], None] | None = None
    """Called with each call that is about to be made."""

    def __init__(self, epoch: int, host: str) -> None:
        """`host` is its name in the bill, different from that of any other host of this epoch."""
        self.epoch = epoch
        self._host = host
        self._journals: list[tuple[str, StepJournal]] = []

    @property
    def committing(self) -> bool:
        return False

    def results(self, plan: StepPlan) -> Results | None:
        if not plan.durable or plan.kind not in (Kind.MAP, Kind.FLAT_MAP, Kind.FILTER):
            return None
        journal = StepJournal(
            plan, self._version(plan), rows=self._rows, blobs=self._blobs, recorder=self._recorder, slots=self._slots,
            known=self._known, deaths=self._deaths, job=self.job, reuse=self._reuse,
            question=b"" if self._reuse is None else self._question(plan), entered=self._entered,
        )  # fmt: skip
        self._journals.append((plan.name, journal))
        return journal

    def progress(self, partition: str) -> Progress:
        return Progress()

    def partition(self, partition: str, *, replayable: bool) -> str:
        return partition

    def applied(self, step: str) -> set[str]:
        return set()

    def output(self, step: str) -> Any:
        return None

    def state(self, step: str) -> Sequence[tuple[Any, Any]]:
        return ()

    def collected(self, step: str) -> list[Any]:
        return []

    def enlist(self, stock: Kept) -> None:
        """Sinks and reductions are at home."""

    def _bill(self) -> list[Change]:
        counts = self._counts()
        return [Change(RowKind.BILL, self._bill_key, codec.encode(counts))] if counts else []

    @property
    def _bill_key(self) -> bytes:
        return f"{self.epoch}-{self._host}".encode()

    def _counts(self) -> dict[str, dict[str, int]]:
        counts: Counts = {}
        for step, journal in self._journals:
            add(counts, {step: journal.counts()})
        return {step: dict(some) for step, some in counts.items()}

    def _question(self, plan: StepPlan) -> bytes:
        """What all calls of the step ask."""
        return question_of(plan)

    def _version(self, plan: StepPlan) -> str:
        """Of the step's operator."""
        raise NotImplementedError
