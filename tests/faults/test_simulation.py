"""A thousand bad worlds in virtual time, and mutants of the product that these worlds find."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
import simulated_world
from harness import FULL
from simulated import World
from simulated_disk import PLAN, Directory, Disk, Journal

from sage.errors import SageError, SinkError
from sage.record import Batch
from sage.runtime.books import Books
from sage.runtime.durability.checkpoint import Checkpoints
from sage.runtime.durability.memo import StepJournal
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durable import Cut, Progress, Taken
from sage.runtime.ledger import DurableBook
from sage.runtime.reports import Report
from sage.runtime.stock import Stock

SEEDS = 10_000 if FULL else 1_000
Break = Callable[[pytest.MonkeyPatch], None]


def wrong(seeds: range) -> dict[int, list[str]]:
    """What went wrong, by seed; ends with the first."""
    for seed in seeds:
        try:
            found = World(seed).run()
        except Exception as error:
            found = [f"ERROR: {error!r}"]
        if found:
            return {seed: found}
    return {}


def test_every_job_comes_to_its_right_end_in_a_bad_world() -> None:
    assert wrong(range(SEEDS)) == {}


def test_the_worlds_are_bad() -> None:
    """Runs were killed, attempts begun again, and calls made again: else nothing was tried."""
    worlds = [World(seed) for seed in range(50)]
    for world in worlds:
        world.run()
    assert sum(world.disk.epoch > 1 for world in worlds) > 10
    assert sum(world.begun_again for world in worlds) > 10
    assert sum(sum(world.calls.values()) > world.records for world in worlds) > 10
    assert sum(world.poison in world.dead for world in worlds) > 10


def test_a_seed_is_a_world() -> None:
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert (first.now_s, first.lines, first.calls) == (second.now_s, second.lines, second.calls)


def offset_early(patch: pytest.MonkeyPatch) -> None:
    """Positions move when a record is read."""
    cut = DurableBook.cut

    def early(book: DurableBook) -> Cut:
        told = cut(book)
        read = {name: Progress(some[-1].last, (), 0) for name, some in book._tickets.items() if some}
        return Cut(told.finished, {**told.partitions, **read})

    patch.setattr(DurableBook, "cut", early)


def commit_dropped(patch: pytest.MonkeyPatch) -> None:
    """Results are said to be safe, and are not on the disk."""
    record = Journal.record

    def lazy(journal: Journal, changes: Collection[Change], **options: Any) -> int:
        return record(journal, [change for change in changes if change.kind is not RowKind.RESULT], **options)

    patch.setattr(Journal, "record", lazy)


def passed_on_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a result is told at once that it is safe."""
    keep = StepJournal.keep

    def hasty(journal: StepJournal, key: bytes, rid: str, result: Any, told: Callable[[], None]) -> int:
        told()
        return keep(journal, key, rid, result)

    patch.setattr(StepJournal, "keep", hasty)


def ids_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What was taken up of unfinished stretches is taken up again."""

    def split(stock: Stock, batch: Batch) -> tuple[Batch, Batch | None]:
        return batch, None

    patch.setattr(Stock, "split", split)


def reports_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """A report is entered without those that it rests on."""

    def ready(books: Books) -> list[Report]:
        return [report for some in books._waiting.values() for report in some]

    patch.setattr(Books, "_ready", ready)


def nobody_is_released(patch: pytest.MonkeyPatch) -> None:
    """A stage of an attempt that is over goes on taking records up."""
    patch.setattr(Stock, "release", lambda stock, timeout_s: True)


def epoch_dropped(patch: pytest.MonkeyPatch) -> None:
    """A run that stood still commits when another has begun."""
    patch.setattr(Disk, "belongs_to", lambda disk, epoch: True)


def deaths_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Nobody counts which calls died with their process."""
    patch.setattr(Directory, "count_deaths", lambda directory, calls: None)
    patch.setattr(simulated_world, "LONGEST_S", 60.0)  # it begins again for ever


RARE: dict[Break, int] = {epoch_dropped: 600}
"""Where to begin to look: only a few worlds find it."""


@pytest.mark.parametrize(
    ("mutant", "seen"),
    [
        (offset_early, "LOST"),
        (commit_dropped, "BILL"),
        (passed_on_before_the_commit, "BILL"),
        (ids_forgotten, "DUP"),
        (reports_out_of_order, "E901"),
        (nobody_is_released, "DUP"),
        (epoch_dropped, "DUP"),
        (deaths_forgotten, "ENDS"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_mutant_is_found(monkeypatch: pytest.MonkeyPatch, mutant: Break, seen: str) -> None:
    mutant(monkeypatch)
    found = wrong(range(RARE.get(mutant, 0), SEEDS))
    assert any(seen in told for some in found.values() for told in some), found


def test_what_a_checkpoint_failed_with_is_heard_by_the_next_attempt(
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    """Found by seed 1425: the attempt that was told had failed already, of a host; the next ran without checkpoints."""

    class Broken:
        plan: Any = PLAN

        def take_stock(self) -> Taken | None:
            raise SinkError("E552", "no space left for the output")

        def holding(self) -> Any:
            return None

    told: list[SageError] = []
    recorder: Any = Journal(Disk(), told.append)
    checkpoints = Checkpoints(recorder, lambda: None, told.append, bill=list, first=0)
    checkpoints.enlist(Broken())
    checkpoints.start(lambda: Cut((), {}))
    wait_until(lambda: told)
    with pytest.raises(SinkError, match="E552"):
        checkpoints.begin_again()
    checkpoints.close(last=True)
