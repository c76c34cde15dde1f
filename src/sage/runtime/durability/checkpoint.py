"""Checkpoints: what of the sources is finished, what sinks and reductions have taken up, all in one commit.

What is finished is looked at first, then each keeper is asked to make safe what it has taken up: so all that belongs to
a finished stretch is among it. Of unfinished stretches, the ids of the records that were taken up are kept, and passed
over when the stretch is read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import count
from typing import Any

from sage import codec
from sage.errors import SageError, StorageError
from sage.runtime.durability.recording import Recorder
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durable import Cut, Keeper, Progress, Taken
from sage.runtime.verdict import error_of

EVERY_S = 0.1
"""Between two checkpoints of a run that moves."""


class Checkpoints:
    """Takes them, on a thread of its own from `start` to `close`. `failed` gets the error of one
    that could not be taken; there is none after it."""

    def __init__(
        self, recorder: Recorder, sync: Callable[[], None], failed: Callable[[SageError], None], *,
        bill: Callable[[], list[Change]], first: int,
    ) -> None:  # fmt: skip
        """`sync` makes dead letters safe, `bill` gives rows that go along. Rows are numbered from `first` on."""
        self._bill = bill
        self._recorder = recorder
        self._sync = sync
        self._failed = failed
        self._numbers = count(first)
        self._keepers: list[Keeper] = []
        self._applied: dict[str, list[tuple[int, bytes]]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sage-checkpoints", daemon=True)
        self._cut: Callable[[], Cut]
        self._failure: SageError | None = None
        self._taking = threading.Lock()

    def enlist(self, keeper: Keeper) -> None:
        self._keepers.append(keeper)

    def know(self, partition: str, last: int, key: bytes) -> None:
        """There is a row of applied ids, of no use when `partition` is finished up to `last`."""
        self._applied.setdefault(partition, []).append((last, key))

    def start(self, cut: Callable[[], Cut]) -> None:
        self._cut = cut
        self._thread.start()

    def close(self, *, last: bool) -> None:
        """Take no more, or only the `last` one. Raises `StorageError` if it cannot be taken."""
        self._over.set()
        if last and self._thread.ident is not None:
            self._thread.join()
            if self._failure is None:
                self._take()
        self._recorder.check()

    def begin_again(self) -> None:
        """The run begins again while it lives: take one more of all that there is, and know no keeper any more. Raises
        what a checkpoint failed with, in case nobody heard it."""
        if self._failure is not None:
            raise self._failure
        self._take()
        self._keepers.clear()

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self._take()
            except SageError as error:
                self._failed(error)
                return

    def _take(self) -> None:
        """What it has taken out of the keepers is gone if it fails: no later checkpoint may follow."""
        with self._taking:
            try:
                self._take_all()
            except BaseException as error:
                self._failure = failure = error_of(error)
                raise failure from error

    def _take_all(self) -> None:
        cut = self._cut()
        stocks = [(keeper.plan.name, keeper.take_stock()) for keeper in self._keepers]
        changes = [
            change for step, taken in stocks if taken is not None for change in self._of_keeper(step, taken, cut)
        ]
        for partition, progress in cut.partitions.items():
            changes.append(Change(RowKind.POSITION, _text(partition), codec.encode(asdict(progress))))
            changes += self._outdated(partition, progress)
        if changes:
            changes += self._bill()
            self._sync()
            self._recorder.wait(self._recorder.record(changes))

    def _of_keeper(self, step: str, taken: Taken, cut: Cut) -> Iterator[Change]:
        if taken.output is not None:
            yield Change(RowKind.OUTPUT, _text(step), codec.encode(taken.output))
        for key, value in taken.state:
            yield Change(RowKind.STATE, _state_key(step, key), _stored(step, [key, value]))
        if taken.records:
            number = next(self._numbers).to_bytes(8, "big")
            yield Change(RowKind.COLLECTED, _text(step) + b"\0" + number, _stored(step, list(taken.records)))
        by_stretch: dict[tuple[str, int, int], list[str]] = {}
        for part in taken.lineage:
            ticket = part.ticket
            if ticket.number not in cut.finished:
                by_stretch.setdefault((ticket.partition, ticket.first, ticket.last), []).extend(part.rids())
        for (partition, first, last), rids in by_stretch.items():
            key = codec.encode([step, partition, first, last, next(self._numbers)])
            self.know(partition, last, key)
            yield Change(RowKind.APPLIED, key, codec.encode(rids))

    def _outdated(self, partition: str, progress: Progress) -> Iterable[Change]:
        """Ids at or below the position of their partition are of no use any more."""
        some = self._applied.get(partition)
        if not some or progress.position is None:
            return
        kept = [(last, key) for last, key in some if last > progress.position]
        for last, key in some:
            if last <= progress.position:
                yield Change(RowKind.APPLIED, key, None)
        self._applied[partition] = kept


def applied_of(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str, int, bytes, list[str]]]:
    """Step, partition, last position, row key and ids of each row of applied ids."""
    for key, value in rows:
        step, partition, _, last, _ = codec.decode(key)
        yield step, partition, last, key, codec.decode(value)


def progress_of(value: bytes) -> Progress:
    """What a row says about a partition. Raises `StorageError` E604."""
    stored: Mapping[str, Any] = codec.decode(value)
    try:
        return Progress(**{**stored, "beyond": tuple((first, last) for first, last in stored["beyond"])})
    except (TypeError, KeyError, ValueError) as error:
        raise StorageError("E604", "this is not a position that SAGE stored", got=value[:200]) from error


def _state_key(step: str, key: Any) -> bytes:
    return _text(step) + b"\0" + _stored(step, key)


def _stored(step: str, value: Any) -> bytes:
    try:
        return codec.canonical(value)
    except SageError as error:
        raise StorageError(
            "E608", f"what a step has taken up cannot be stored ({error.what})", at=f"step {step!r}", got=error.got,
            expected="what sage.codec lists: plain values, numpy arrays", try_="such values, or no job directory",
        ) from error  # fmt: skip


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
