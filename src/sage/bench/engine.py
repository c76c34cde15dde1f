"""Cases on real engines: processes of this machine, or Ray nodes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import sage
from sage.bench.arrivals import Arrivals, Home, InFlight
from sage.bench.case import Case, Load
from sage.bench.executor import Run
from sage.bench.virtual import ideal_of
from sage.bench.work import Ask, Compute, Perform, Stamped
from sage.errors import UsageError
from sage.flow import StepOptions
from sage.llm.simulated import SimulatedEndpoint, profile_named
from sage.runtime.ray_placement import MOST_HOSTS
from sage.runtime.run import MOST_PROCESSES
from sage.simulation import PIPELINES, Rows

PIPELINES_HERE = tuple(name for name in PIPELINES if name != "adaptive_rag")
WHAT = "computing by sleeping, simulated endpoint"


class EngineCluster:
    """`sage.run` with so many processes as the case has nodes: of this machine, or each on a Ray node of its own.

    `kind` is ``local``, or a Ray cluster: its address, ``auto``, or its name.
    Records that ask an endpoint do it from the process that started the run.
    """

    def __init__(self, kind: str, profile: str = "a100-qwen2.5-3b") -> None:
        self._kind = kind
        self._profile = profile
        self.where = "processes of this machine" if kind == "local" else f"Ray cluster {kind}"

    @property
    def label(self) -> str:
        return f"{self.where}, {WHAT}"

    def check(self, case: Case) -> None:
        hosts = case.nodes if case.loads else case.nodes * case.slots
        most = MOST_PROCESSES if self._kind == "local" else MOST_HOSTS
        if hosts > most:
            raise UsageError(
                "E104", "too many processes", at=f"case {case.name}", got=hosts, expected=f"{most} are the most"
            )
        wrong = _wrong(case) if case.loads else None
        if wrong is not None:
            raise UsageError(
                "E104", "this cluster cannot run the case", at=f"case {case.name}", got=wrong,
                expected=f"one job of {', '.join(PIPELINES_HERE)}", try_="--cluster virtual",
            )  # fmt: skip

    def run(self, case: Case, seed: int) -> Run:
        load = case.loads[0]
        paced = load.rate_per_s is None
        home = Home(InFlight(case.in_flight(load) if paced else load.tasks))
        with ExitStack() as stack:
            pipeline = sage.Pipeline(f"bench-{load.pipeline}")
            arrivals = Arrivals(load, seed, home.in_flight if paced else None)
            stream = pipeline.read(arrivals).map(Compute(), **_many(self._kind, case))
            if load.pipeline in ("rag", "llm"):
                endpoint = stack.enter_context(SimulatedEndpoint(self._profile, seed=seed))
                stream = stream.map(Ask(endpoint.url), concurrency=case.nodes * case.slots)
            stream.write(home)
            stack.callback(home.in_flight.close)
            began_s = monotonic()
            self._run(pipeline, case, case.nodes)
            ideal = ideal_of(case, profile_named(self._profile), seed)
            return Run(rows_of(load.name, home.records, began_s), ideal)

    def perform(self, function: Any, count: int, case: Case) -> list[Stamped]:
        """`function(0)` to `function(count - 1)`, in as many processes as the case has slots on its nodes."""
        home = Home(InFlight(count))
        pipeline = sage.Pipeline("bench-perform")
        arrivals = Arrivals(Load("perform", "compute", count), 0, home.in_flight)
        pipeline.read(arrivals).map(Perform(function), **self._workers_of(case)).write(home)
        with closing(home.in_flight):
            self._run(pipeline, case, self._hosts(case))
        return home.records

    def close(self) -> None:
        """There is nothing to end: every run ends what it has started."""

    def _workers_of(self, case: Case) -> StepOptions:
        """How many instances, and where."""
        return {"parallelism": case.nodes * case.slots}

    def _hosts(self, case: Case) -> int | None:
        """In how many processes `case` is performed."""
        return case.nodes * case.slots

    def _run(self, pipeline: sage.Pipeline, case: Case, hosts: int | None) -> None:
        with TemporaryDirectory(prefix="sage-bench-") as folder:
            options: dict[str, Any] = {"dead_letters": Path(folder) / "dead.jsonl", "max_dead_letters": 0}
            sage.run(pipeline, scheduler=case.scheduler, **self._engine(hosts), **options)

    def _engine(self, hosts: int | None) -> dict[str, Any]:
        if self._kind == "local":
            return {"processes": hosts}
        return {"engine": "ray", "address": self._kind, "hosts": hosts}


def _wrong(case: Case) -> str | None:
    """What there is only in virtual time."""
    if len(case.loads) != 1:
        return f"{len(case.loads)} jobs"
    if case.loads[0].pipeline not in PIPELINES_HERE:
        return case.loads[0].pipeline
    if case.adaptive or case.cores is not None or case.admission != "limited":
        return "a number of cores, or another admission"
    return None


def _many(kind: str, case: Case) -> StepOptions:
    """So many records at once: threads of the one process, or instances in each of several."""
    if kind == "local" and case.nodes == 1:
        return {"concurrency": case.slots}
    return {"parallelism": case.nodes * case.slots}


def rows_of(job: str, records: Iterable[Stamped], began_s: float) -> Rows:
    """Waiting to compute and to ask is queueing, the way home is scheduling; nodes are numbered as they appear."""
    rows = Rows([job])
    nodes: dict[int, int] = {}
    for record in sorted(records, key=_home):
        asked_s = record.asked_s or record.home_s
        calling_s = record.home_s - record.asked_s if record.asked_s else 0.0
        way_s = asked_s - record.ended_s
        rows.index.append(record.number)
        rows.job_index.append(0)
        rows.node.append(nodes.setdefault(record.host, len(nodes)))
        rows.intended_s.append(record.read_s - began_s)
        rows.ended_s.append(record.home_s - began_s)
        rows.scheduling_s.append(0.0 if record.asked_s else way_s)
        rows.queueing_s.append(record.began_s - record.read_s + (way_s if record.asked_s else 0.0))
        rows.execution_s.append(record.ended_s - record.began_s + calling_s)
    return rows


def _home(record: Stamped) -> float:
    return record.home_s
