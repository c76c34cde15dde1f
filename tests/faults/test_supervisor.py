"""The supervisor of a job on Ray: a process without Ray in it, which begins the driver again when it, the node's Ray or
its GCS is gone. In full (``make faults``) each of them is killed; Ray alone takes seconds to start."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import FULL, wait_for

from jobs.managers import Managed
from sage.processes import descendants
from sage.runtime.recall_async import most_in_flight

RECORDS, CONCURRENCY, INSTANCES = 600, 8, 2
JOB = f"""
import asyncio, os
import sage
from sage.connectors import Items, JsonLines

BILL = os.path.abspath("bill")
with open("began", "a") as began:
    began.write(f"{{os.getpid()}}\\n")

async def pay(n):
    with open(BILL, "a") as bill:
        bill.write(f"{{n}}\\n")
    await asyncio.sleep(0.1)
    return {{"n": n}}

pipeline = sage.Pipeline("supervised")
paid = pipeline.read(Items(range({RECORDS}))).map(
    pay, durable=True, concurrency={CONCURRENCY}, parallelism={INSTANCES}
)
paid.write(JsonLines("out.jsonl"))
"""
START = """
import os, sys
os.environ["PYTHONWARNINGS"] = "ignore"  # Ray's own agent does not start where warnings are errors
os.execv(sys.executable, [sys.executable, "-m", "sage", "jobmanager", "start", "--detached"])
"""


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    made = Managed(tmp_path)
    yield made
    made.close()
    wait_for(lambda: made.processes() == [])


def process_of(managed: Managed, job: str, name: str) -> int | None:
    """The process of this name below the supervisor of the job."""
    for pid in descendants(managed.supervisor(job).pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        is_driver = b"execute" in command
        if is_driver if name == "driver" else command[0].endswith(name.encode()):
            return pid
    return None


@pytest.mark.skipif(not FULL, reason="make faults: each takes half a minute")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["driver", "raylet", "gcs_server"])
def test_a_job_on_ray_goes_on_when_it_is_killed(managed: Managed, tmp_path: Path, victim: str) -> None:
    managed.start(program=("-c", START))
    job = managed.submit(JOB, engine="ray", hosts=INSTANCES, job_dir=str(tmp_path / "job"))
    wait_for(lambda: len(managed.lines("bill")) > RECORDS // 4 or managed.client.show(job)["state"] == "FAILED")
    pid = process_of(managed, job, victim)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    wait_for(lambda: len(managed.lines("began")) > 1)
    billed = len(managed.lines("bill"))
    wait_for(lambda: len(managed.lines("bill")) > billed)
    print(f"{victim} killed: the next call {time.monotonic() - killed_s:.1f} s later")
    found = managed.end_of(job)
    assert (found["state"], found["run"]) == ("SUCCEEDED", 1), managed.log(job)
    written = Counter(json.loads(line)["n"] for line in managed.lines("out.jsonl"))
    assert written == Counter(range(RECORDS))
    assert len(managed.lines("bill")) <= RECORDS + INSTANCES * most_in_flight(CONCURRENCY)
