"""When whoever moves records between hosts looks again, and how much the workers of a host fetch."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.record import Batch, Lineage, Positions, Ticket
from sage.runtime.control import Aborted, Control
from sage.runtime.rhythm import SHARE, Rhythm
from sage.runtime.supply import MOST_ITEMS, Pace, SharedSupply


def batch(first: int, count: int) -> Batch:
    positions = range(first, first + count)
    lineage = Lineage(Ticket("p", first, first + count - 1, count, 0.0), count, Positions("p", positions))
    return Batch(list(positions), (lineage,))


class Source:
    """The end of a queue of batches."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self.asked: list[int] = []

    def put(self, *batches: Batch) -> None:
        for each in batches:
            self._queue.put(each)

    def close(self) -> None:
        self._queue.put(None)

    def fetch(self, items: int) -> list[Batch]:
        self.asked.append(items)
        found: list[Batch] = []
        while len(found) < items and not (found and self._queue.empty()):
            one = self._queue.get()
            if one is None:
                self.close()
                break
            found.append(one)
        return found


@given(gaps=st.lists(st.floats(0.002, 10.0), min_size=1, max_size=50))
def test_nobody_rests_for_things_that_come_alone(gaps: list[float]) -> None:
    rhythm, now_s = Rhythm(room=64, most_s=0.002), 100.0
    for gap_s in gaps:
        now_s += gap_s
        rhythm.took(1, now_s)
        assert rhythm.rest_s(now_s) == 0.0


@given(rate=st.floats(1.0, 1e6), room=st.integers(1, 1_000), late_s=st.floats(0.0, 0.01))
def test_a_rest_is_short_and_leaves_room(rate: float, room: int, late_s: float) -> None:
    rhythm, now_s = Rhythm(room, most_s=0.002), 5.0
    each = max(1, round(rate * 0.002))
    for _ in range(60):
        now_s += each / rate
        rhythm.took(each, now_s)
    rest_s = rhythm.rest_s(now_s + late_s)
    assert 0.0 <= rest_s <= 0.002
    assert rest_s * rate <= SHARE * room + 1e-6
    assert not rest_s or rate * 0.002 > 0.9


@given(rate=st.floats(0.1, 1e6), each=st.integers(1, 256))
def test_a_host_fetches_what_it_uses_up_soon(rate: float, each: int) -> None:
    pace = Pace()
    pace.used(0, 1.0)
    pace.used(round(rate * 10), 11.0)
    items = pace.items(each)
    assert 1 <= items <= MOST_ITEMS
    assert items == 1 or items * each <= rate * 0.05 + 1


def test_slow_calls_are_fetched_one_by_one() -> None:
    source, now = Source(), [0.0]
    supply = SharedSupply(source, 8, Control(), clock=lambda: now[0])
    for number in range(40):
        source.put(batch(number, 1))
    for number in range(40):  # 16 calls a second: eight at once, of half a second
        now[0] += 1 / 16
        taken = supply.take(1)
        assert taken is not None
        assert taken.records == [number]
    assert set(source.asked) == {1}


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), workers=st.integers(2, 8))
def test_every_record_goes_to_one_worker_with_its_rid(sizes: list[int], workers: int) -> None:
    source = Source()
    supply = SharedSupply(source, workers, Control())
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    taken: list[tuple[int, str]] = []

    def work() -> None:
        while (part := supply.take(100)) is not None:
            taken.extend(zip(part.records, part.rids, strict=True))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for start, size in zip(starts, sizes, strict=True):
        source.put(batch(start, size))
    source.close()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [(number, f"p/{number}") for number in range(sum(sizes))]
    assert supply.records == 0


def test_no_worker_gets_what_others_could_work_on() -> None:
    source = Source()
    supply = SharedSupply(source, 4, Control())
    source.put(batch(0, 8))
    parts = [supply.take(100) for _ in range(2)]
    assert [len(part) for part in parts if part is not None] == [2, 1]


def test_abort_ends_every_wait(wait_until: Callable[..., None]) -> None:
    source, control = Source(), Control()
    supply = SharedSupply(source, 3, control)
    ended: list[str] = []

    def work() -> None:
        try:
            supply.take(1)
        except Aborted:
            ended.append("aborted")
        else:
            ended.append("end")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(source.asked) == 1)
    control.abort()
    source.close()  # as a run that is aborted does
    for thread in threads:
        thread.join()
    assert sorted(ended)[:2] == ["aborted", "aborted"]


def test_a_worker_whose_fetch_fails_leaves_the_others_theirs() -> None:
    class Failing(Source):
        def fetch(self, items: int) -> list[Batch]:
            if not self.asked:
                self.asked.append(items)
                raise RuntimeError("spoiled")
            return super().fetch(items)

    source = Failing()
    source.put(batch(0, 1))
    supply = SharedSupply(source, 2, Control())
    with pytest.raises(RuntimeError):
        supply.take(1)
    taken = supply.take(1)
    assert taken is not None
    assert taken.records == [0]
