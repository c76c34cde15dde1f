"""The checkers find what they are there for: four ways to break durability, and each is seen."""

import os
from pathlib import Path
from typing import Any

import pytest
from harness import History, Hook, Workload

from sage.errors import StorageError
from sage.runtime.durability import rows
from sage.runtime.durability.opening import EPOCH, JOURNAL
from sage.runtime.durability.recording import Recorder
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.rows import Rows
from sage.runtime.durable import Cut, Progress
from sage.runtime.ledger import DurableBook


def offset_early() -> None:
    """Positions move when a record is read, not when it is written."""
    cut = DurableBook.cut

    def early(book: DurableBook) -> Cut:
        told = cut(book)
        read = {name: Progress(tickets[-1].last, (), 0) for name, tickets in book._tickets.items() if tickets}
        return Cut(told.finished, {**told.partitions, **read})

    DurableBook.cut = early  # type: ignore[method-assign]


def commit_dropped() -> None:
    """What was recorded is said to be safe, and is not on the disk."""

    def lazy(recorder: Recorder, some: Any) -> None:
        kept = [change for changes, _ in some for change in changes if change.kind is not RowKind.RESULT]
        recorder._rows.apply(kept)

    Recorder._commit = lazy  # type: ignore[method-assign]


def called_twice() -> None:
    """Each call is made again after it has answered."""
    from sage.runtime.asynchronous import AsyncStage

    once = AsyncStage._call_now

    async def twice(stage: AsyncStage, batch: Any) -> Any:
        await once(stage, batch)
        return await once(stage, batch)

    AsyncStage._call_now = twice  # type: ignore[method-assign]


def outputs_not_cut_off() -> None:
    """What was written behind the last checkpoint stays when the job goes on."""
    from sage.connectors.output_file import OutputFile

    def keep(file: OutputFile, size: int, crc: int) -> None:
        file._raw.seek(0, os.SEEK_END)
        file._crc, file._checked = crc, size

    OutputFile._cut_off = keep  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("mutant", "seen"),
    [
        (offset_early, "LOST"),
        (commit_dropped, "BILL"),
        (called_twice, "BILL"),
        (outputs_not_cut_off, "DUP"),
        (None, ""),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_mutant_is_seen_and_nothing_else(tmp_path: Path, mutant: Hook | None, seen: str) -> None:
    workload = Workload(tmp_path, records=120, call_s=0.02, concurrency=4)  # a kill comes behind some checkpoints
    workload.prepare()
    history = History(workload)
    for bill in (40, 80):
        assert not history.run(hook=mutant, kill_at_bill=bill)
    history.run(hook=mutant)
    found = history.violations()
    assert any(one.startswith(seen) for one in found) if mutant else found == [], (found, history.ended)


def journal_at(folder: Path, epoch: int) -> Rows:
    return Rows(folder / JOURNAL, epoch=epoch)


def test_a_late_commit_of_an_earlier_run_is_refused(tmp_path: Path) -> None:
    workload = Workload(tmp_path, records=50, call_s=0.02)
    workload.prepare()
    history = History(workload)
    assert not history.run(kill_at_bill=10)
    late = journal_at(tmp_path / "job", 1)
    change = Change(RowKind.RESULT, b"late", b"=1")
    late.apply([change])  # nobody has taken over yet
    assert not history.run(kill_at_bill=20)
    try:
        with pytest.raises(StorageError, match="E603 a later run has taken over"):
            late.apply([change])
    finally:
        late.close()


def test_the_refusal_is_what_the_epoch_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the check dropped, the late commit goes through: the test above would see it."""
    monkeypatch.setattr(rows.Rows, "_check_epoch", lambda self: None)
    Rows.create(tmp_path / JOURNAL, [Change(RowKind.META, EPOCH, b"2")])
    late = journal_at(tmp_path, 1)
    late.apply([Change(RowKind.RESULT, b"late", b"=1")])
    assert late.get(RowKind.RESULT, b"late") == b"=1"
    late.close()
