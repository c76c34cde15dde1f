"""The schedulers of real runs: the same classes as in virtual time say which host gets the next records."""

from __future__ import annotations

import time
from collections import Counter
from math import inf
from pathlib import Path

import pytest

import sage
from cli.command_line import sage as sage_command
from sage.connectors import Items
from sage.errors import SchedulingError
from sage.scheduling import Decision, Fifo, names, register, scheduler
from sage.scheduling.view import Replica, Work

SLEEP_S = 0.024
HOSTS = 3


class Unequal(sage.Operator):
    """Hosts of speeds 1, 2 and 4, emulated by sleeping."""

    def __call__(self, record: int) -> int:
        time.sleep(SLEEP_S / 2**self.instance)
        return self.instance

    def open(self, context: sage.OperatorContext) -> None:
        self.instance = context.instance


def run_with(name: str, records: int) -> sage.RunResult:
    pipeline = sage.Pipeline("unequal")
    pipeline.read(Items(range(records))).map(Unequal(), name="work").collect()
    return sage.run(pipeline, processes=HOSTS, scheduler=name)


def shares(result: sage.RunResult) -> list[int]:
    counted = Counter(result.collected())
    return [counted[instance] for instance in range(HOSTS)]


@pytest.mark.parametrize("name", names())
def test_each_policy_gives_out_work_by_its_law(name: str) -> None:
    records = 42
    result = run_with(name, records)
    found = shares(result)
    assert sum(found) == records
    (route,) = result.routes
    assert (route.task, route.scheduler) == ("work", name)
    assert all(host.outstanding == 0 for host in route.hosts)
    if name == "round_robin":
        given = [host.given for host in route.hosts]
        assert max(given) - min(given) <= 1
    else:
        assert found[2] > found[0] > 0, "who is quicker gets more"


FLOW = """
import sage
from sage.connectors import Items, JsonLines

pipeline = sage.Pipeline("flow")
pipeline.read(Items(range(12))).map(lambda n: {"n": n}, name="work").write(JsonLines("out.jsonl"))
"""


def test_a_run_explains_who_ran_what(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    done = sage_command("run", "flow.py", "--processes", "2", "--explain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stderr.partition("why\n")[2].splitlines()]
    assert lines[:2] == [
        "work/0 is in host 1: the process with the fewest (host 1 0, host 2 0)",
        "work/1 is in host 2: the process with the fewest (host 1 1, host 2 0)",
    ]
    assert lines[2].startswith("work: adaptive gives work to 2 hosts, ")  # nobody said which policy
    assert [line.partition(":")[0] for line in lines[3:6]] == ["host 1", "host 2", "last decision"]
    assert lines[5].startswith("last decision: would be done first (host 1 ")
    assert [line.split()[0] for line in lines[6:]] == ["a", "read-Items", "work", "write-JsonLines"]
    assert lines[6].split()[-3:] == ["begins", "after", "takes"]


@pytest.fixture
def own_policy(monkeypatch: pytest.MonkeyPatch) -> str:
    """Known to this test only."""
    monkeypatch.setattr(scheduler, "_KINDS", dict(scheduler._KINDS))

    @register
    class LastAlone(Fifo):
        """Law: the last one does everything."""

        name = "last_alone"

        def choose(self, work: Work, replicas: list[Replica], waiting_s: float) -> Decision[int | None]:  # type: ignore[override]
            scores = [inf] * (len(replicas) - 1) + [0.0]
            last = len(replicas) - 1 if replicas[-1].is_free else None
            return Decision(last, scores, "is the last")

    return LastAlone.name


def test_a_policy_of_ones_own_decides_real_runs_too(own_policy: str) -> None:
    assert shares(run_with(own_policy, 20)) == [0, 0, 20]


def test_a_policy_that_there_is_not() -> None:
    with pytest.raises(SchedulingError, match="E246 there is no such scheduler: got nope"):
        run_with("nope", 1)
    with pytest.raises(SchedulingError, match="E246 "):
        sage.run(sage.Pipeline("none"), scheduler="nope")
