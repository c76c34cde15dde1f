"""Batches: whatever is cut out of them, every record keeps its rid, its key and its ticket."""

import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.record import Batch, Lineage, Ticket, merge


def batch_of(*sizes: int, keyed: bool = False) -> Batch:
    """A batch of as many stretches of lineage; each record is its own rid."""
    parts = []
    for number, size in enumerate(sizes):
        ticket = Ticket(f"p{number}", 0, size - 1, size, 0.0)
        records = [f"p{number}/{position}" for position in range(size)]
        lineage = Lineage.of_source(ticket, range(size))
        parts.append(Batch(list(records), (lineage,), [f"key of {r}" for r in records] if keyed else None))
    return merge(parts)


def check(batch: Batch) -> None:
    """Every record still stands beside its own rid, key and ticket."""
    assert list(batch.rids) == batch.records
    assert [batch.rids[index] for index in range(len(batch))] == batch.records
    assert len(batch) == len(batch.rids) == sum(part.count for part in batch.lineage)
    assert batch.keys is None or batch.keys == [f"key of {'/'.join(r.split('/')[:2])}" for r in batch.records]
    tickets = [part.ticket.partition for part in batch.lineage for _ in range(part.count)]
    assert tickets == [record.split("/")[0] for record in batch.records]
    assert len(batch.lineage) == 1 or all(part.count for part in batch.lineage)


def expanded(batch: Batch, counts: list[int], firsts: list[int] | None = None) -> Batch:
    starts = firsts or [0] * len(counts)
    children = [
        f"{record}/s/{n}"
        for record, count, first in zip(batch.records, counts, starts, strict=True)
        for n in range(first, first + count)
    ]
    return batch.expand("s", children, counts, firsts)


CHANGES = st.lists(st.tuples(st.sampled_from(["select", "slice", "expand", "merge"]), st.randoms()), max_size=8)


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=4), keyed=st.booleans(), changes=CHANGES)
def test_any_sequence_of_changes(sizes: list[int], keyed: bool, changes: list[tuple[str, Any]]) -> None:
    batch = batch_of(*sizes, keyed=keyed)
    for change, chance in changes:
        if not len(batch):
            break
        if change == "select":
            batch = batch.select([chance.random() < 0.7 for _ in batch.records])
        elif change == "slice":
            start = chance.randrange(len(batch) + 1)
            batch = batch.slice(start, chance.randrange(start, len(batch) + 1))
        elif change == "expand":
            batch = expanded(
                batch, [chance.randrange(3) for _ in batch.records], [chance.randrange(3) for _ in batch.records]
            )
        elif len(batch) > 1:
            cut = chance.randrange(1, len(batch))
            batch = merge([batch.slice(0, cut), batch.slice(cut, len(batch))])
        if len(batch):
            check(batch)
    assert Counter(batch.rids) == Counter(batch.records)


@pytest.mark.parametrize("index", [-1, -5, 4])
def test_rids_from_the_end(index: int) -> None:
    batch = batch_of(2, 3)
    assert batch.rids[index] == batch.records[index]
    assert batch.rids[1:4] == batch.records[1:4]


@pytest.mark.parametrize("index", [5, -6, 100])
def test_no_rid_where_there_is_no_record(index: int) -> None:
    with pytest.raises(IndexError):
        batch_of(2, 3).rids[index]


def test_a_history_as_long_as_one_likes() -> None:
    batch = batch_of(3)
    for _ in range(5000):
        batch = batch.select([True] * 3).slice(0, 3)
    check(batch)


def test_rids_are_asked_for_by_many_threads() -> None:
    """Copies of a stream share their lineage."""
    for _ in range(300):
        lineage = batch_of(3).lineage[0].slice(0, 2)
        start = threading.Barrier(4)
        found: list[list[str]] = []

        def ask(lineage: Lineage = lineage, start: Any = start, found: Any = found) -> None:
            start.wait()
            found.append(lineage.rids())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [["p0/0", "p0/1"]] * 4
