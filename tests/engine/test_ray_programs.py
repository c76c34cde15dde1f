"""Whole programs on a cluster: the examples, the page of the documentation, and one that is killed."""

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
