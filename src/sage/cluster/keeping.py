"""The keeper of a cluster, as seen by the process that started it."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sage.cluster.cluster import FOREIGN_VARIABLES, Cluster, Node, access_to, with_environment
from sage.cluster.plan import NodePlan
from sage.cluster.sessions import END_S, end_sessions
from sage.errors import ClusterError, MissingDependency

FOLDER_PREFIX = "sage-ray-"
_START_S, _NODE_START_S = 180.0, 30.0
"""For all, and for each."""
_GAVE_UP = "timed out during startup"
_MOST_TRIES = 3
"""A raylet dies if one of its agents takes 15 s to begin, and no setting of Ray changes that."""
_MOST_FOLDER_CHARS = 30
"""Ray makes sockets below its folder, whose paths can have 107 characters."""
_LOG_CHARS = 600


class Keeping:
    """A keeper and its nodes, until `close()` or the end of this process, however it ends."""

    def __init__(self, *, is_loopback: bool = True) -> None:
        if find_spec("ray") is None:
            raise MissingDependency("ray[default]", "ray", "a Ray cluster")
        self._folder = _make_folder()
        self._nodes: list[Node] = []
        self._address = ""
        self._token_path = self._folder / "token"
        self._replies = bytearray()
        try:
            _write_token(self._token_path)
            self._process = self._start_keeper(is_loopback)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @property
    def cluster(self) -> Cluster:
        """What was started so far."""
        return Cluster(self._address, tuple(self._nodes), self._token_path, self._folder)

    def start(self, plans: Sequence[NodePlan]) -> Cluster:
        """Start nodes: the very first is the head, the others start side by side. Raises `ClusterError` E830."""
        until = time.monotonic() + _START_S + _NODE_START_S * len(plans)
        head, rest = (plans[:1], plans[1:]) if not self._nodes else ((), plans)
        for group in (head, rest):
            self._start_all({plan.name: plan for plan in group}, until)
        order = {plan.name: place for place, plan in enumerate(plans)}
        self._nodes.sort(key=lambda node: order.get(node.name, -1))
        return self.cluster

    def close(self) -> None:
        """End every process of the cluster, and remove its folder. Safe to repeat. Raises `ClusterError` E838."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, and something was to be told yet
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        end_sessions([self._process.pid, *(node.pid for node in self._nodes)])
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_keeper(self, is_loopback: bool) -> subprocess.Popen[bytes]:
        unset: dict[str, str | None] = dict.fromkeys(FOREIGN_VARIABLES)
        variables = unset | access_to(self._token_path, is_loopback=is_loopback)
        with (self._folder / "keeper.log").open("ab") as log:
            return subprocess.Popen(
                with_environment(variables, [sys.executable, "-P", "-m", "sage.cluster.keeper", self._folder]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is not for it: it ends when this process closes it, or ends
            )

    def _start_all(self, waiting: dict[str, NodePlan], until: float) -> None:
        """Start them side by side. One that Ray gave up on, as it does on a busy machine, is tried again."""
        tries = Counter(waiting.keys())
        for plan in waiting.values():
            self._ask(plan)
        while waiting:
            reply = self._reply(until, waiting.keys())
            name = str(reply.get("name", ""))
            if _GAVE_UP in reply.get("fault", "") and tries[name] < _MOST_TRIES:
                tries[name] += 1
                self._ask(waiting[name])
            else:
                self._add(reply)
                del waiting[name]

    def _ask(self, plan: NodePlan) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed(plan.name, "the keeper has ended") from None

    def _reply(self, until: float, names: Iterable[str]) -> dict[str, Any]:
        """The next line from the keeper."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        waiting = ", ".join(sorted(names))
        while b"\n" not in self._replies:
            if not select.select([fd], (), (), max(0.0, until - time.monotonic()))[0]:
                raise self._failed(waiting, "no answer in time")
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                raise self._failed(waiting, "the keeper has ended")
            self._replies += chunk
        line, _, rest = bytes(self._replies).partition(b"\n")
        self._replies = bytearray(rest)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _add(self, reply: dict[str, Any]) -> None:
        if "fault" in reply:
            raise self._failed(str(reply.get("name", "a node")), reply["fault"])
        self._address = self._address or reply["cluster"]
        self._nodes.append(Node(reply["name"], reply["node_id"], reply["address"], reply["cpus"], reply["pid"]))

    def _failed(self, name: str, fault: str) -> ClusterError:
        log = (self._folder / "keeper.log").read_text(errors="replace").strip()[-_LOG_CHARS:]
        return ClusterError(
            "E830", "a node of the Ray cluster did not start", at=name, got=f"{fault} {log}".strip(),
            expected="that it starts within minutes", try_="sage doctor --engine ray",
        )  # fmt: skip


def _make_folder() -> Path:
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base if len(base) <= _MOST_FOLDER_CHARS else "/tmp"))


def _write_token(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
