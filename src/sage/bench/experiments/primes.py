"""Large primes by gmpy2, over processes: does the machine do what its cores can?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from sage.bench.case import Case
from sage.bench.engine import EngineCluster
from sage.bench.executor import Executor, Run
from sage.bench.experiment import MEAN, P99, THROUGHPUT, Column, Experiment, Figures, Medians, Plot
from sage.bench.options import Options
from sage.bench.statistics import percentile
from sage.bench.usage import Usage
from sage.bench.work import Stamped
from sage.errors import InternalError, MissingDependency

BITS = 1024
FACTOR_BITS = 28
"""Of each of the two primes of a number that is factored."""
ROUNDS = 40
"""Of Miller and Rabin, by which each prime is verified."""
EFFICIENCY = Column("node_efficiency", "node efficiency (%)", 100, 1, "higher")
OF_PLAIN = Column("of_plain", "of plain processes (%)", 100, 1, "higher")
CPU = Column("cpu_mean", "mean CPU (%)", 100, 0)
CPU_MOST = Column("cpu_most", "max CPU (%)", 100, 0)
MEMORY = Column("memory_mean_bytes", "mean memory (MB)", 1e-6, 0)
MEMORY_MOST = Column("memory_most_bytes", "max memory (MB)", 1e-6, 0)
ERRORS = Column("error_rate", "errors (%)", 100, 1, "lower")
QUEUE = Column("queue_length", "queue length", digits=1)
SIZES = (1, 2, 3, 4, 5, 6)
QUICK_SIZES = (1, 2)
EACH = 2
"""Workers of each node, where the number of nodes is what changes."""
PLAIN = "plain processes"
ONE_NODE = "SAGE, one node"


def cases(options: Options) -> Sequence[Case]:
    """Plain processes and SAGE in turns, so that what disturbs the machine disturbs both."""
    tasks, scheduler = options.sized(240, 60), options.scheduler or "load_aware_spread"
    found: dict[str, Case] = {}
    for nodes, workers in _grid(options):
        total = nodes * workers
        settings: dict[str, Any] = {"tasks": tasks, "bits": BITS, "workers": total}
        plain = Case(f"{total} plain", total, PLAIN, nodes=0, settings={"kind": "plain", **settings})
        found.setdefault(plain.name, plain)
        series = ONE_NODE if nodes == 1 else f"SAGE, {workers} on each node"
        name = f"{nodes} x {workers}"
        settings = {"kind": "prime", **settings}
        found[name] = Case(name, total, series, nodes=nodes, slots=workers, scheduler=scheduler, settings=settings)
    if options.workers is None:
        settings = {"kind": "factor", "tasks": tasks, "bits": FACTOR_BITS, "workers": EACH}
        found["factors"] = Case("factors", EACH, f"1 x {EACH}", nodes=1, slots=EACH, settings=settings)
    return list(found.values())


def _grid(options: Options) -> list[tuple[int, int]]:
    """Nodes and workers on each: one node, then more nodes; or all that are asked for, with one another."""
    sizes = QUICK_SIZES if options.quick else SIZES
    if options.cluster in ("virtual", "local"):
        return [(nodes, workers) for nodes in options.nodes or (1,) for workers in options.workers or sizes]
    if options.nodes or options.workers:
        return [(nodes, workers) for nodes in options.nodes or sizes for workers in options.workers or (EACH,)]
    return [*((1, workers) for workers in sizes), *((nodes, EACH) for nodes in sizes if nodes > 1)]


def measure(case: Case, executor: Executor, seed: int) -> tuple[Figures, Run | None]:
    check_gmpy2()
    kind, tasks = case.settings["kind"], case.settings["tasks"]
    function = partial(factor if kind == "factor" else prime, seed)
    with Usage() as usage:
        if kind == "plain":
            return {**_plain(case, function), **usage.figures()}, None
        assert isinstance(executor, EngineCluster)
        records = executor.perform(function, tasks, case)
        usage_figures = usage.figures()
    _check(case, tasks, [record.outcome for record in records])
    return {**_figures(case, records), **usage_figures}, None


def prime(seed: int, index: int) -> int:
    """A prime of `BITS` bits: the first from a random number on."""
    import gmpy2

    start = random.Random(f"{seed} prime {index}").getrandbits(BITS) | 1 << (BITS - 1)
    return int(gmpy2.next_prime(start))


def factor(seed: int, index: int) -> tuple[int, int, int]:
    """A number, and its two factors: Pollard's rho."""
    import gmpy2

    chance = random.Random(f"{seed} factor {index}")
    p, q = (int(gmpy2.next_prime(chance.getrandbits(FACTOR_BITS) | 1 << (FACTOR_BITS - 1))) for _ in range(2))
    number = p * q
    found = p if p == q else _rho(number, chance)
    return number, found, number // found


def _rho(number: int, chance: random.Random) -> int:
    import gmpy2

    while True:
        slow = fast = gmpy2.mpz(chance.randrange(2, number))
        addend = chance.randrange(1, number)
        divisor = gmpy2.mpz(1)
        while divisor == 1:
            slow = (slow * slow + addend) % number
            fast = (fast * fast + addend) % number
            fast = (fast * fast + addend) % number
            divisor = gmpy2.gcd(slow - fast, number)
        if divisor != number:
            return int(divisor)


def _plain(case: Case, function: Any) -> Figures:
    """What the machine can do: plain processes, each of which takes the next task that nobody has."""
    context, tasks = get_context("spawn"), case.settings["tasks"]
    taken = context.Value("q", 0)
    pipes = [context.Pipe() for _ in range(case.settings["workers"])]
    workers = [context.Process(target=_loop, args=(function, taken, tasks, theirs), daemon=True) for _, theirs in pipes]
    for worker, (_, theirs) in zip(workers, pipes, strict=True):
        worker.start()
        theirs.close()
    ours = [pipe for pipe, _ in pipes]
    try:
        for do in (Connection.recv, lambda pipe: pipe.send(None)):  # all are ready before any begins
            for pipe in ours:
                do(pipe)
        parts = [pipe.recv() for pipe in ours]
    except EOFError as error:
        raise InternalError("E902", "a plain process ended before its work did", at=case.name) from error
    finally:
        for worker, pipe in zip(workers, ours, strict=True):
            pipe.close()
            worker.join()
    _check(case, tasks, [found for *_, outcomes in parts for found in outcomes])
    return {"throughput_per_s": tasks / (max(end for _, end, _ in parts) - min(begin for begin, *_ in parts))}


def _loop(function: Any, taken: Any, tasks: int, pipe: Connection) -> None:
    function(0)  # what it needs is imported before the clock runs
    pipe.send(None)
    pipe.recv()
    began_s, found = monotonic(), []
    while (index := _next(taken)) < tasks:
        found.append(function(index))
    pipe.send((began_s, monotonic(), found))


def _next(taken: Any) -> int:
    with taken.get_lock():
        taken.value += 1
        return int(taken.value) - 1


def _figures(case: Case, records: Sequence[Stamped]) -> Figures:
    """Lifetime is from the first record that a worker begins to the last that one ends."""
    began_s = min(record.began_s for record in records)
    ended_s = max(record.ended_s for record in records)
    took = sorted(record.ended_s - record.began_s for record in records)
    queued_s = sum(record.began_s - record.read_s for record in records)
    return {
        "throughput_per_s": len(records) / (ended_s - began_s),
        "mean_s": sum(took) / len(took),
        "p99_s": percentile(took, 0.99),
        "node_efficiency": sum(took) / (case.settings["workers"] * (ended_s - began_s)),
        "queue_length": queued_s / (ended_s - records[0].read_s),
        "error_rate": 0.0,
    }


def _check(case: Case, tasks: int, found: Sequence[Any]) -> None:
    """Every prime is one, every factor too, and nothing is missing."""
    import gmpy2

    wrong = tasks - len(found)
    for outcome in found:
        if isinstance(outcome, int):
            wrong += not (gmpy2.is_prime(outcome, ROUNDS) and outcome.bit_length() >= BITS)
        else:
            number, p, q = outcome
            wrong += not (p * q == number and gmpy2.is_prime(p, ROUNDS) and gmpy2.is_prime(q, ROUNDS))
    if wrong:
        raise InternalError("E902", "wrong or lost primes, so no figure of this run is shown", at=case.name, got=wrong)


def derive(cases: Sequence[Case], figures: Medians) -> Mapping[str, Figures]:
    plain = {case.x: figures[case.name]["throughput_per_s"] for case in cases if case.series == PLAIN}
    return {
        case.name: {"of_plain": figures[case.name]["throughput_per_s"] / plain[case.x]}
        for case in cases
        if case.settings["kind"] == "prime"
    }


def _nodes(case: Case) -> float:
    return case.nodes


def _all(case: Case) -> str | None:
    return None if case.settings["kind"] == "factor" else case.series


def _each(case: Case) -> str | None:
    workers = "1 worker" if case.slots == 1 else f"{case.slots} workers"
    return f"{workers} on each" if case.settings["kind"] == "prime" else None


def check_gmpy2() -> None:
    """Raise `MissingDependency` without gmpy2."""
    try:
        import gmpy2  # noqa: F401 -- only whether it is there
    except ImportError as error:
        raise MissingDependency("gmpy2", "bench", "finding primes") from error


PRIMES = Experiment(
    "primes",
    "Primes",
    f"Primes of {BITS} bits, and factors: nodes x workers on each, beside the same loop in plain processes",
    cases,
    (THROUGHPUT, OF_PLAIN, EFFICIENCY, MEAN, P99, QUEUE, CPU, CPU_MOST, MEMORY, MEMORY_MOST, ERRORS),
    (
        Plot("throughput", "Primes a second by workers", "workers in all", "primes/s", (THROUGHPUT,), line=_all),
        Plot(
            "efficiency", "Node efficiency by workers", "workers in all", "busy time over lifetime (%)", (EFFICIENCY,),
            line=_all,
        ),
        Plot(
            "nodes", "Primes a second by nodes", "nodes", "primes/s", (THROUGHPUT,), x=_nodes, line=_each, points=False
        ),
        Plot(
            "nodes-efficiency", "Node efficiency by nodes", "nodes", "busy time over lifetime (%)", (EFFICIENCY,),
            x=_nodes, line=_each, points=False,
        ),
    ),
    measure=measure,
    derive=derive,
    published={
        name: {"throughput_per_s": rate, "node_efficiency": efficiency}
        for name, rate, efficiency in (
            ("1 x 1", 3.6, 0.995), ("1 x 2", 6.5, 0.86), ("1 x 3", 5.9, 0.81), ("1 x 4", 5.9, 0.76),
            ("1 x 5", 5.5, 0.77), ("1 x 6", 5.5, 0.75), ("2 x 2", 6.4, 0.75), ("3 x 2", 7.1, 0.59),
            ("4 x 2", 8.9, 0.46), ("5 x 2", 10.7, 0.51), ("6 x 2", 10.3, 0.47),
        )
    },
    source="the primes laboratory, published (virtual machines of 2 cores)",
    computes=True,
)  # fmt: skip
