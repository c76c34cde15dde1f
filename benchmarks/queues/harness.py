"""What every benchmark of the queues shares: turns, processes, rows, and no figure from a run that lost an item.

A benchmark is a module of this folder with a function ``rows(rounds: int) -> Iterator[Row]``, named in ``KINDS`` of
``__main__.py``. Most of its rows come from `compare`: give it a function for SAGE and one for each peer, each of which
moves items once and returns one figure, and the bars of that figure::

    def rows(rounds: int) -> Iterator[Row]:
        yield from compare(
            "one by one",
            RATE,
            {"SAGE": lambda: flow(sage(), SINGLES), "pyzmq ipc": lambda: flow(zmq_ipc(), SINGLES)},
            [Times(1.5, "pyzmq ipc"), AtLeast(1_000_000)],
            rounds,
        )

`flow` and `round_trip_us` do this for anything that `channels.py` opens, in processes or threads. What works otherwise
(actors of Ray, two nodes) runs the same jobs, `Produce` and `Consume`, where it likes: first `ready`, all at once, then
`run`. A function that measures in its own way calls `check` with what came and what should have. Raise `NotMeasured`
where a figure cannot be had here: it is said in the table.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

PATIENCE_S = 120.0
"""For one part of one round. Peers are known to hang."""
_CHANCES = 3
OURS = "SAGE"
CONTEXT = multiprocessing.get_context("spawn")

Measure = Callable[[], float]


class NotMeasured(Exception):
    """There is no figure: a peer is not installed, the machine lacks something, or an item was lost."""


class Lost(NotMeasured):
    """Items were lost, doubled or changed. No figure comes from such a run, and the table ends with exit code 1."""


def check(came: object, expected: object, what: str = "what came is not what was put") -> None:
    """Raise `Lost` where they differ."""
    if came != expected:
        raise Lost(f"E801 {what}")


# --- rows and bars ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """How figures are written, and whether more of it is better."""

    name: str
    more_is_better: bool = True
    digits: int = 0

    def text(self, figure: float) -> str:
        return f"{figure:,.{self.digits}f}"


RATE = Unit("items/s")
GIGABYTES = Unit("GB/s", digits=2)
MICROSECONDS = Unit("us, p50", more_is_better=False, digits=1)
MILLISECONDS = Unit("ms", more_is_better=False, digits=2)


@dataclass(frozen=True)
class Times:
    """Be at least so many times as good as a peer; without a name, as the best of the peers."""

    least: float
    peer: str | None = None


@dataclass(frozen=True)
class AtLeast:
    """Reach a figure: more than it, or less where less is better."""

    figure: float


@dataclass(frozen=True)
class Row:
    """One bar, and what was measured against it."""

    what: str
    sage: str
    peer: str
    peer_name: str
    ratio: float | None
    """How many times as good as the peer; the median of the rounds' ratios."""
    bar: str
    met: bool | None
    """None: the row has no bar, it is there to be read."""


def compare(
    what: str, unit: Unit, measures: Mapping[str, Measure], bars: Sequence[Times | AtLeast], rounds: int
) -> Iterator[Row]:
    """A row for each of `bars`, and one for each peer that no bar is about."""
    figures = turns(measures, rounds)
    what = f"{what}, {unit.name}"
    peers = [name for name in figures if name != OURS]
    told = set()
    for bar in bars:
        if isinstance(bar, Times):
            pick = max if unit.more_is_better else min
            name = bar.peer or pick(peers, key=lambda peer: statistics.median(figures[peer]))
            told.add(name)
            yield _against(what, unit, figures, name, bar.least)
        else:
            yield alone(what, unit, statistics.median(figures[OURS]), bar)
    for name in peers:
        if name not in told:
            yield _against(what, unit, figures, name, None)


def alone(what: str, unit: Unit, figure: float, bar: AtLeast) -> Row:
    """A row without a peer."""
    met = figure >= bar.figure if unit.more_is_better else figure <= bar.figure
    sign = ">=" if unit.more_is_better else "<="
    return Row(what, unit.text(figure), "", "", None, f"{sign} {unit.text(bar.figure)}", met)


def _against(what: str, unit: Unit, figures: Mapping[str, list[float]], name: str, least: float | None) -> Row:
    ours, theirs = figures[OURS], figures[name]
    pairs = list(zip(ours, theirs, strict=True))
    ratio = statistics.median(a / b if unit.more_is_better else b / a for a, b in pairs)
    medians = unit.text(statistics.median(ours)), unit.text(statistics.median(theirs))
    if least is None:
        return Row(what, *medians, name, ratio, "", None)
    return Row(what, *medians, name, ratio, f">= {least:,g} x", ratio >= least)


def turns(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """The figures of each measure. They take turns, so that a machine whose speed drifts does so for all of them.

    One round first does not count.
    """
    for name, measure in measures.items():
        _figure(name, measure)
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            figures[name].append(_figure(name, measure))
    return figures


def _figure(name: str, measure: Measure) -> float:
    """A peer that hung or lost something is asked again, so that the others have their figures; SAGE never is."""
    for _ in range(0 if name == OURS else _CHANCES - 1):
        with suppress(NotMeasured):
            return measure()
    return measure()


# --- jobs, in processes or threads ------------------------------------------------------------------------------------


class Job(Protocol):
    """One end of a measurement, in a process or thread of its own. Must be picklable until it is `ready`."""

    def ready(self) -> None:
        """Open what is needed and warm it up. May need the other jobs to do the same at the same time."""

    def run(self) -> Any:
        """Do what is measured, and end. The result is plain data."""


def in_processes(*jobs: Job, pinned: bool = True, patience_s: float = PATIENCE_S) -> list[Any]:
    """Run `jobs` in a process each, and return their results. All are ready before one runs.

    They are pinned to the cores in turn: the scheduler's luck is not measured. Raises `NotMeasured` where one fails,
    or a part of it takes longer than `patience_s`; then all are killed.
    """
    cores = sorted(os.sched_getaffinity(0)) if pinned else []
    workers: list[tuple[Any, Connection]] = []
    try:
        for index, job in enumerate(jobs):
            mine, theirs = CONTEXT.Pipe()
            core = cores[index % len(cores)] if cores else None
            process = CONTEXT.Process(target=_worker, args=(job, theirs, core), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, mine))
        _answers(workers, patience_s)
        for _, pipe in workers:
            pipe.send("run")
        results = _answers(workers, patience_s)
        for process, _ in workers:
            process.join(patience_s)
        return results
    finally:
        for process, pipe in workers:
            pipe.close()
            if process.is_alive():
                process.kill()
            process.join()


def _worker(job: Job, pipe: Connection, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, [core])
    try:
        job.ready()
        pipe.send((True, None))
        pipe.recv()
        pipe.send((True, job.run()))
    except NotMeasured as reason:
        pipe.send((False, reason))
    except Exception:  # noqa: BLE001 -- the outermost edge of a process: it becomes an outcome
        with suppress(OSError):
            pipe.send((False, NotMeasured(traceback.format_exc(limit=-3))))


def _answers(workers: Sequence[tuple[Any, Connection]], patience_s: float) -> list[Any]:
    """One message of each, as they come: the first that fails ends the measurement."""
    until = time.monotonic() + patience_s
    waiting = {pipe: index for index, (_, pipe) in enumerate(workers)}
    answers: dict[int, Any] = {}
    while waiting:
        came = multiprocessing.connection.wait(list(waiting), until - time.monotonic())
        if not came:
            raise NotMeasured(f"not done after {patience_s:.0f} s")
        for pipe in came:
            try:
                succeeded, answer = pipe.recv()
            except EOFError:
                raise NotMeasured("a process died") from None
            if not succeeded:
                raise answer
            answers[waiting.pop(pipe)] = answer
    return [answers[index] for index in range(len(workers))]


def in_threads(*jobs: Job) -> list[Any]:
    """The same in threads of this process, which share a core as they share the interpreter.

    On two, a wake-up takes ten times as long, or not: luck. A job that fails raises here; one that hangs is not ended.
    """
    gc.collect()  # what another measurement left does not fall into the time of this one
    core = min(os.sched_getaffinity(0))
    barrier = threading.Barrier(len(jobs), timeout=PATIENCE_S)
    results: list[Any] = [NotMeasured("did not end")] * len(jobs)

    def work(index: int, job: Job) -> None:
        os.sched_setaffinity(0, [core])  # this thread alone
        try:
            job.ready()
            barrier.wait()
            results[index] = job.run()
        except Exception as error:  # noqa: BLE001 -- the same of a thread
            barrier.abort()
            results[index] = error

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


# --- what is measured of a channel ------------------------------------------------------------------------------------


class Channel(Protocol):
    """One end of a queue or of a peer. The methods may be attributes: what is called is what is measured."""

    def put(self, item: Any, /) -> object: ...

    def get(self) -> Any: ...

    def put_list(self, items: list[Any], /) -> object: ...

    def get_list(self) -> list[Any]:
        """As many as come together, at most as many as are put together."""

    def end(self) -> object:
        """Give it up; what was put still arrives."""


Open = Callable[[], Channel]
"""Opens one end where it is needed; picklable."""


@dataclass(frozen=True)
class Ends:
    """How the producers and the consumers reach one and the same channel."""

    producer: Open
    consumer: Open


@dataclass(frozen=True)
class Load:
    """What a flow carries: `count` items, which are those of `make` over and over."""

    count: int
    make: Callable[[], Sequence[Any]]
    together: int = 1
    """How many are put together, as a list; 1: one by one."""
    warm_up: int = 1_000
    mark: Callable[[Any], object] | None = None
    """What tells items apart that are too large to be kept, and are put one by one."""

    def items(self, count: int) -> list[Any]:
        """The first `count`."""
        some = self.make()
        return list((list(some) * (count // len(some) + 1))[:count])


def small_items() -> list[str]:
    """A hundred short texts."""
    return [f"item_{index}" for index in range(100)]


def arrays(size_bytes: int) -> list[Any]:
    """Eight arrays that differ in their first and last byte."""
    import numpy

    made = [numpy.zeros(size_bytes, dtype=numpy.uint8) for _ in range(8)]
    for index, array in enumerate(made):
        array[0] = array[-1] = index + 1
    return made


def ends_of(array: Any) -> tuple[int, int, int]:
    """What tells `arrays` apart."""
    return array.nbytes, int(array[0]), int(array[-1])


def _itself(item: Any) -> Any:
    return item


@dataclass
class Produce:
    """Puts a load; the result is when it began, on the machine's monotonic clock."""

    open: Open
    load: Load

    def ready(self) -> None:
        self._channel = self.open()
        _put(self._channel, self.load.items(self.load.warm_up), self.load.together)
        self._items = self.load.items(self.load.count)

    def run(self) -> float:
        started = time.perf_counter()
        _put(self._channel, self._items, self.load.together)
        self._channel.end()
        return started


@dataclass
class Consume:
    """Gets a load and checks it; the result is when the last item had come."""

    open: Open
    load: Load

    def ready(self) -> None:
        self._channel = self.open()
        _get(self._channel, self.load, self.load.warm_up)

    def run(self) -> float:
        came = _get(self._channel, self.load, self.load.count)
        ended = time.perf_counter()
        check(came, list(map(self.load.mark or _itself, self.load.items(self.load.count))))
        self._channel.end()
        return ended


def _put(channel: Channel, items: list[Any], together: int) -> None:
    if together == 1:
        put = channel.put
        for item in items:
            put(item)
    else:
        for start in range(0, len(items), together):
            channel.put_list(items[start : start + together])


def _get(channel: Channel, load: Load, count: int) -> list[Any]:
    """`count` items, or what tells them apart."""
    came: list[Any] = []
    if load.together > 1:
        while len(came) < count:
            came += channel.get_list()
        return came
    get = channel.get
    if load.mark is None:
        return [get() for _ in range(count)]
    mark = load.mark
    return [mark(get()) for _ in range(count)]


def flow(ends: Ends, load: Load, run: Callable[..., list[Any]] = in_processes) -> float:
    """Items a second from one producer to one consumer: from the first put to the last get."""
    started, ended = run(Produce(ends.producer, load), Consume(ends.consumer, load))
    return load.count / (ended - started)


@dataclass
class Ask:
    """Sends an item, waits for it to come back, and so on; the result is the median trip, in microseconds."""

    there: Open
    back: Open
    trips: int

    def ready(self) -> None:
        self._there, self._back = self.there(), self.back()
        self._trips(100)

    def run(self) -> float:
        median_s = statistics.median(self._trips(self.trips))
        self._there.end()
        self._back.end()
        return median_s * 1e6

    def _trips(self, count: int) -> list[float]:
        took = []
        for item in range(count):
            started = time.perf_counter()
            self._there.put(item)
            came = self._back.get()
            took.append(time.perf_counter() - started)
            check(came, item)
        return took


@dataclass
class Echo:
    """The other side of `Ask`."""

    there: Open
    back: Open
    trips: int

    def ready(self) -> None:
        self._there, self._back = self.there(), self.back()
        self._trips(100)

    def run(self) -> None:
        self._trips(self.trips)
        self._there.end()
        self._back.end()

    def _trips(self, count: int) -> None:
        for _ in range(count):
            self._back.put(self._there.get())


def anywhere(*jobs: Job) -> list[Any]:
    """`in_processes` that are not pinned: the system may put two that take turns on one core, and wakes them sooner."""
    return in_processes(*jobs, pinned=False)


def round_trip_us(there: Ends, back: Ends, trips: int, run: Callable[..., list[Any]] = anywhere) -> float:
    """There and back through two channels, the median."""
    asked, _ = run(Ask(there.producer, back.consumer, trips), Echo(there.consumer, back.producer, trips))
    return float(asked)
