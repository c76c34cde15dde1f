"""A job manager as users have it: a process of its own, on a folder of its own; and files for it to run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.command_line import environment
from patience import DEADLINE_S
from sage.jobs.client import Client
from sage.jobs.folder import StateFolder
from sage.processes import Process, end_all, marked

HEAD = """
import itertools, os, signal, sys, time
from pathlib import Path
import sage
from sage.connectors import Items, JsonLines

with open("began", "a") as began:
    began.write(f"{os.getpid()}\\n")

def until(name):
    while not Path(name).exists():
        time.sleep(0.005)
    return True

"""
QUICK = (
    HEAD
    + """
pipeline = sage.Pipeline("quick")
pipeline.read(Items(range(10))).map(lambda n: {"n": n}).write(JsonLines("out.jsonl"))
"""
)
ENDLESS = (
    HEAD
    + """
def slowly(n):
    time.sleep(0.005)
    if n == 3:
        Path("working").touch()
    return {"n": n}

pipeline = sage.Pipeline("endless")
pipeline.read(Items(itertools.count())).map(slowly).write(JsonLines("out.jsonl"))
"""
)
STUCK = (
    HEAD
    + """
def stuck(n):
    Path("working").touch()
    time.sleep(3600)

pipeline = sage.Pipeline("stuck")
pipeline.read(Items(range(10))).map(stuck).write(JsonLines("out.jsonl"))
"""
)
RELEASED = (
    HEAD
    + """
def wait(n):
    Path("working").touch()
    until("go")
    return {"n": n}

pipeline = sage.Pipeline("released")
pipeline.read(Items(range(10))).map(wait).write(JsonLines("out.jsonl"))
"""
)


class Managed:
    """A state folder, and the managers that come and go on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.where = tmp_path
        self.folder = StateFolder(tmp_path / "data")
        self.client = Client(self.folder)
        self.manager: subprocess.Popen[str] | None = None

    def start(
        self, *options: str, program: Sequence[str] = ("-m", "sage", "jobmanager", "start", "--detached")
    ) -> int | None:
        """Start one, and wait until it answers; its port."""
        manager = subprocess.Popen(
            [sys.executable, *program, *options], cwd=self.where, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            text=True, env=environment(SAGE_DATA_DIR=str(self.folder.path.parent), PYTHONPATH=":".join(sys.path)),
        )  # fmt: skip
        self.manager = manager
        assert manager.stdout is not None
        with manager.stdout as output:
            told = json.loads(output.readline())
        port: int | None = told["port"]
        return port

    def kill(self) -> None:
        """Kill the manager with SIGKILL, or see that it is dead."""
        assert self.manager is not None
        self.manager.kill()
        self.manager.wait()

    def died(self) -> bool:
        """Whether the manager killed itself, when it has ended."""
        assert self.manager is not None
        return self.manager.wait(DEADLINE_S) == -signal.SIGKILL

    def submit(self, source: str, **fields: Any) -> str:
        """Submit a file with this text; the id of the job."""
        file = self.where / "flow.py"
        file.write_text(source)
        made = self.client.submit({"file": str(file), "folder": str(self.where), **fields})
        job: str = made["id"]
        return job

    def end_of(self, job: str) -> dict[str, Any]:
        """All about the job, once it has ended."""
        for _ in self.client.log(job, follow=True):
            pass
        return self.client.show(job)

    def log(self, job: str) -> str:
        return "".join(self.client.log(job))

    def supervisor(self, job: str) -> Process:
        found = self.folder.job(job).run(self.client.show(job)["run"]).supervisor_of_it()
        assert found is not None
        return found

    def processes(self) -> list[int]:
        """Those of all jobs of this folder, without their supervisors."""
        return [process.pid for process, _ in marked(lambda path: path.startswith(str(self.folder.path)))]

    def lines(self, name: str) -> list[str]:
        """Of a file that jobs write to."""
        path = self.where / name
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        """End everything; the jobs end with their supervisors."""
        if self.manager is not None:
            self.kill()
        supervisors = [
            self.folder.job(job).run(int(run.name)).supervisor_of_it()
            for job in self.folder.ids()
            for run in self.folder.job(job).path.iterdir()
            if run.name.isdigit()
        ]
        assert end_all([one for one in supervisors if one is not None], DEADLINE_S) == []
        for unfinished in self.where.glob(".*.sage-tmp"):  # the output of a pipeline that was killed
            unfinished.unlink()
