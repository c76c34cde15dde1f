"""The step journal of a host that asks the driver: what it looks up and keeps goes over their link, many at a time."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage import codec
from sage.errors import SageError, StorageError
from sage.flow.graph import StepPlan
from sage.runtime.control import Aborted
from sage.runtime.durability.billing import Counts, add
from sage.runtime.durability.blobs import InRows
from sage.runtime.durability.journals import Journals
from sage.runtime.durability.recording import Recorder
from sage.runtime.durability.reuse import BEGINNING_BYTES
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.slots import Slots
from sage.runtime.durable import Branch, FarBranch, Keep, Look, Question, Share

TELL_EVERY_S = 0.1
"""What the calls came to, at most, while none of them ends."""

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
        self._rows = FarRows(ask, self._bill_if_lost)
        self._told_s = 0.0
        self._told_most = 0
        self._entered = self._tell_bill
        if branch.questions is not None:
            self._reuse = FarResults(branch.shared, ask, tell)
        self._blobs = InRows()  # what is too large for a row is the driver's business
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

    def _question(self, plan: StepPlan) -> bytes:
        assert self._branch.questions is not None
        return self._branch.questions[plan.name]

    def _tell_bill(self) -> None:
        """When there are more calls in flight than ever, and now and then: it is not told when this process dies."""
        now_s = time.monotonic()
        most = sum(journal.most_under_way for _, journal in self._journals)
        if most > self._told_most or now_s - self._told_s > TELL_EVERY_S:
            self._told_s, self._told_most = now_s, most
            self._tell(Keep(self._bill_if_lost()))

    def _bill_if_lost(self) -> list[Change]:
        counts: Counts = {}
        for step, journal in self._journals:
            add(counts, {step: journal.counts_if_lost()})
        return [Change(RowKind.BILL, self._bill_key, codec.encode({step: dict(some) for step, some in counts.items()}))]


class FarResults:
    """Results that jobs share, of which the driver has the file. `beginnings` are those of the keys that there are."""

    def __init__(self, beginnings: frozenset[bytes], ask: Ask, tell: Callable[[Question], None]) -> None:
        self._beginnings = beginnings
        self._ask = ask
        self._tell = tell

    def get(self, key: bytes) -> tuple[Any] | None:
        """The result in a tuple, if there is one."""
        if key[:BEGINNING_BYTES] not in self._beginnings:
            return None
        found: tuple[Any] | None = self._ask(Look(key, shared=True))
        return found

    def put(self, key: bytes, result: Any) -> None:
        """Keep it, soon."""
        self._tell(Share(key, codec.encode(result)))


class FarRows:
    """Rows of the driver. What the calls came to goes along with them."""

    def __init__(self, ask: Ask, bill: Callable[[], list[Change]]) -> None:
        self._ask = ask
        self._bill = bill

    def get(self, kind: RowKind, key: bytes) -> bytes | None:
        """Of a result, the only kind that hosts look up."""
        assert kind is RowKind.RESULT
        found: bytes | None = self._ask(Look(key))
        return found

    def apply(self, changes: list[Change]) -> None:
        """All of them are on the driver's disk when this returns. Raises `StorageError`."""
        try:
            self._ask(Keep([*changes, *self._bill()]))
        except Aborted:  # the journal's thread tells its end in another way
            raise StorageError("E603", "the run was given up before the journal had stored everything") from None
