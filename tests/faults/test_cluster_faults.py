"""A job on two machines of the network laboratory, with Ray across them: the other machine is killed, stands still, or
the network between them fails in every way. In full (``make faults``) only: each takes a minute, mostly Ray's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import FULL, wait_for

from patience import DEADLINE_S
from sage.runtime.durability.audit import bill
from sage.runtime.recall_async import most_in_flight
from sage.testing.network import Link, Network, RayCluster

RECORDS, CONCURRENCY, INSTANCES = 2400, 8, 2
MOST_IN_FLIGHT = INSTANCES * most_in_flight(CONCURRENCY)
LEASE_S = 15.0
JOB = f"""
import asyncio, json, os, socket, sys
import ray
import sage
from sage.connectors import Items, JsonLines, SQLite

BILL = os.path.abspath("bill-")

async def pay(n):
    with open(BILL + socket.gethostname(), "a") as bill:
        bill.write(f"{{n}}\\n")
    await asyncio.sleep(0.1)
    return {{"n": n}}

pipeline = sage.Pipeline("across")
paid = pipeline.read(Items(range({RECORDS}))).map(
    pay, name="pay", durable=True, concurrency={CONCURRENCY}, parallelism={INSTANCES}
)
paid.write(JsonLines("out.jsonl"))
paid.write(SQLite("out.db", "out"))
ray.init(log_to_driver=False, logging_level="error")
result = sage.run(pipeline, engine="ray", hosts={INSTANCES}, job_dir="job")
print(json.dumps([result.status, list(result.restarts)]))
"""


@dataclass
class Across:
    """The job that runs on hosts a and b; its driver is on a."""

    folder: Path
    network: Network
    driver: subprocess.Popen[str]

    def billed(self, host: str) -> list[int]:
        path = self.folder / f"bill-{host}"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def stop(self, number: int) -> None:
        """Send a signal to every process of host b."""
        for pid in processes_in(self.network.host("b").network_id):
            os.kill(pid, number)

    def ended(self) -> list[str]:
        """Why it began again, each time, once it has ended and is right."""
        out, err = self.driver.communicate(timeout=5 * DEADLINE_S)
        assert self.driver.returncode == 0, err
        status, restarts = json.loads(out.splitlines()[-1])
        assert status == "SUCCEEDED"
        written = Counter(json.loads(line)["n"] for line in (self.folder / "out.jsonl").read_text().splitlines())
        assert written == Counter(range(RECORDS))
        (told,) = bill(self.folder / "job")
        assert told.paid == RECORDS
        return list(restarts)

    @property
    def paid_again(self) -> int:
        return len(self.billed("a")) + len(self.billed("b")) - RECORDS


def processes_in(network_id: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "ns" / "net").stat().st_ino == network_id:
                found.append(int(entry.name))
        except OSError:  # it ended
            continue
    return found


@contextmanager
def across(folder: Path, link: Link) -> Iterator[Across]:
    (folder / "job.py").write_text(JOB)
    with Network(Link(delay_ms=0.5)) as network, RayCluster(network, ["a", "b"]) as cluster:
        command = [sys.executable, "job.py"]
        pipe = subprocess.PIPE
        driver = cluster.popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)
        try:
            network.set(**{name: getattr(link, name) for name in ("delay_ms", "jitter_ms", "loss")})
            yield Across(folder, network, driver)
        finally:
            driver.kill()
            driver.communicate()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Across]:
    """Under way on both hosts."""
    with across(tmp_path, Link(delay_ms=0.5)) as made:
        wait_for(lambda: (len(made.billed("a")) > 50 and len(made.billed("b")) > 50) or made.driver.poll() is not None)
        yield made


pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FULL, reason="make faults: each takes a minute"),
]


def killed(job: Across) -> None:
    job.network.host("b").kill()


def cut_off(job: Across) -> None:
    job.network.partition("a", "b")


def cut_off_from_a(job: Across) -> None:
    job.network.link("a", "b").partition()


def cut_off_to_a(job: Across) -> None:
    job.network.link("b", "a").partition()


def frozen(job: Across) -> None:
    job.stop(signal.SIGSTOP)


@pytest.mark.parametrize("fault", [killed, cut_off, cut_off_from_a, cut_off_to_a, frozen], ids=lambda one: one.__name__)
def test_a_machine_that_is_lost_costs_its_calls_in_flight(job: Across, fault: Callable[[Across], None]) -> None:
    """And what it does when it is back changes nothing: the job has ended by then, or refuses it."""
    fault(job)
    began_s = time.monotonic()
    wait_for(lambda: set(job.billed("a")) & set(job.billed("b")) or job.driver.poll() is not None)
    print(f"{fault.__name__}: its calls are made anew {time.monotonic() - began_s:.1f} s later")
    job.network.heal()
    if fault is frozen:
        job.stop(signal.SIGCONT)
    assert len(job.ended()) == 1
    assert job.paid_again <= MOST_IN_FLIGHT + (0 if fault in (killed, frozen) else zombie_calls())


def zombie_calls() -> int:
    """What a machine that is cut off may still pay for, before it ends itself: its calls, for as long as a lease."""
    return int(most_in_flight(CONCURRENCY) * (LEASE_S / 0.1 + 1))


def test_a_short_cut_costs_nothing(job: Across) -> None:
    job.network.partition("a", "b")
    time.sleep(5.0)  # what is tried is how long it lasts
    job.network.heal()
    assert job.ended() == []
    assert job.paid_again == 0


def test_a_slow_and_lossy_network_loses_no_host(tmp_path: Path) -> None:
    with across(tmp_path, Link(delay_ms=100, jitter_ms=50, loss=0.02)) as job:
        assert job.ended() == []
        assert job.paid_again == 0
