"""Whole programs on a cluster: the examples, the page of the documentation, and one that is killed."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.blocks import ROOT, blocks_of, commands_in, say, shape
from docs.embedding import require_embedding_model
from docs.test_examples import EXAMPLES, WITH_MODEL
from ray_nodes import MARKS
from sage.cluster import Cluster

pytestmark = [*MARKS, pytest.mark.thorough]

KILLED = """
import os, time, sage
from sage.connectors import Items

def work(n):
    print("working", os.getpid(), flush=True)
    time.sleep(600)

pipeline = sage.Pipeline("killed")
pipeline.read(Items(range(10))).map(work, parallelism=1).collect()
sage.run(pipeline, engine="ray", address=ADDRESS)
"""

NODE_KILLED = """
import json, os, signal, time, sage
from sage import cluster
from sage.connectors import Items

def work(n):
    time.sleep(0.01)
    return n, os.getsid(0)  # each node is a session

sessions = set()

async def note(worked):  # at home
    sessions.add(worked[1])
    return worked[0]

pipeline = sage.Pipeline("node")
pipeline.read(Items(range(600))).map(work, name="work").map(note, name="note").collect()
with cluster.private(nodes=3, cpus=1) as made, cluster.connect(made, log_to_driver=False):
    job = sage.start(pipeline, sage.RunOptions(engine="ray", hosts=3))
    while len(sessions) < 3:
        time.sleep(0.01)
    os.kill(made.nodes[-1].pid, signal.SIGKILL)  # its keeper ends all that is left of it
    result = job.wait()
print(json.dumps([result.status, sorted(result.collected()) == list(range(600)), len(result.restarts)]))
"""
JOB = """
import os, time, sage
from sage.connectors import Items, JsonLines

CALLS = os.path.abspath("calls")

def work(n):
    time.sleep(0.02)
    with open(CALLS, "a") as calls:
        calls.write(f"{n}\\n")
    return {"n": n}

pipeline = sage.Pipeline("again")
pipeline.read(Items(range(300))).map(work, name="work", durable=True).write(JsonLines("out.jsonl"))
"""


SHARED = """
import os, sage
from sage import cluster
from sage.connectors import Items

pipeline = sage.Pipeline("shared")
pipeline.read(Items(range(600))).map(lambda n: (os.getpid(), n), name="work").collect()
with cluster.private(nodes=2, cpus=1) as made, cluster.connect(made, log_to_driver=False):
    result = sage.run(pipeline, engine="ray", hosts=2)
    assert len({pid for pid, _ in result.collected()}) == 2
print([placed.where.partition(", ")[2] for placed in result.placed])
"""


def test_nodes_on_one_machine_are_joined_by_its_memory(tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == str(["reached through shared memory"] * 2)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example(example: str, two_nodes: Cluster, tmp_path: Path) -> None:
    if example in WITH_MODEL:
        require_embedding_model()
    command = two_nodes.command(["sage", "run", "--address", two_nodes.address, ROOT / "examples" / example])
    said = say(shlex.join(map(str, command)), tmp_path, {})
    assert EXAMPLES[example] in said
    assert {path.name for path in tmp_path.iterdir()} <= {"demo-output"}


def test_the_page_of_the_documentation(tmp_path: Path) -> None:
    for block in blocks_of(ROOT / "docs" / "ray.md"):
        if block.order == "file":
            (tmp_path / block.about).write_text(block.text)
        else:
            for command, shown in commands_in(block):
                assert shape(say(command, tmp_path, {})) == shape(shown)


def test_no_host_survives_its_driver(
    two_nodes: Cluster, tmp_path: Path, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("ADDRESS", repr(two_nodes.address)))
    with subprocess.Popen(
        two_nodes.command([sys.executable, script]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline().split()[1])
        driver.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_run_goes_on_when_a_whole_node_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE_KILLED)
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    status, is_all, restarts = json.loads(ended.stdout.splitlines()[-1])
    assert (status, is_all) == ("SUCCEEDED", True)
    assert restarts >= 1


def test_a_job_goes_on_where_its_driver_was_killed(
    two_nodes: Cluster, tmp_path: Path, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    (tmp_path / "job.py").write_text(JOB)
    calls = tmp_path / "calls"
    told = [
        sys.executable,
        "-m",
        "sage",
        "run",
        "job.py",
        "--address",
        two_nodes.address,
        "--hosts",
        "2",
        "--job-dir",
        "job",
        "--quiet",
    ]
    command = two_nodes.command(told)
    with subprocess.Popen(command, cwd=tmp_path) as driver:
        wait_until(lambda: calls.exists() and len(calls.read_text().splitlines()) > 100)
        driver.kill()
    subprocess.run(command, cwd=tmp_path, check=True)
    written = [json.loads(line)["n"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(written) == list(range(300))
    assert 300 <= len(calls.read_text().splitlines()) < 400
