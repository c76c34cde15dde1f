"""What the fault tests are made of: a workload that leaves traces, processes that are killed, and checkers.

A run is a process of its own, forked from the test. What it did is known from the outside only: from the bill, to which
every call adds a line before it answers, and from the outputs. The checkers return what is wrong, by name: LOST, DUP,
UNEXPECTED, ORDER, BILL, ENDS, ACCOUNT, LEAK; an empty list is what a test wants.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workload import KEYS, Workload

import sage
from patience import DEADLINE_S
from sage.connectors import KeyValue
from sage.rag.documents import DocumentReader
from sage.rag.manifest import read_manifest
from sage.runtime.durability.audit import verify
from sage.runtime.durability.slots import left_in_flight

FULL = os.environ.get("SAGE_FAULTS") == "full"
"""All of it (``make faults``), or what fits into a run of the tests."""
ALONE = f"""
import json, sys
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from pathlib import Path
from harness import Workload
try:
    result = Workload(Path.cwd(), records=60, call_s=0.0).run()
    print(json.dumps(result.error.code if result.error else "SUCCEEDED"))
except Exception as error:
    print(json.dumps(getattr(error, "code", repr(error))))
"""
"""A program that is one run, of a small workload in its folder."""
Hook = Callable[[], None]
"""Called in the process of a run, before it begins."""


@dataclass
class History:
    """What happened to the runs of one job."""

    workload: Workload
    kills: int = 0
    in_flight: list[int] = field(default_factory=list)
    """Calls that each run which was killed had in flight: made, and their result not known to be safe."""
    _counted: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    """How each run that was not killed ended."""

    def run(
        self, *, kill_after_s: float | None = None, kill_at_bill: int | None = None, hook: Hook | None = None
    ) -> bool:
        """One run in a process of its own; True if it came to its end, False if it was killed: after a time, or
        by itself with the call that makes so many on the bill, however slow the machine is."""
        pid, told = self.begun(hook, kill_at_bill)
        try:
            if kill_after_s is not None:
                select.select([told], [], [], kill_after_s)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            word = _read_all(told)
        finally:
            os.close(told)
            _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            self.kills += 1
            left = [path for path in self.workload.folder.glob("job/calls-*") if path.name not in self._counted]
            self._counted.update(path.name for path in left)
            self.in_flight.append(sum(len(left_in_flight(path)) for path in left))
            return False
        self.ended.append("SUCCEEDED" if word.startswith("REFUSED E115") else word)  # it had, when it was killed
        return True

    def begun(self, hook: Hook | None = None, kill_at_bill: int | None = None) -> tuple[int, int]:
        """The process of a run, and the end of a pipe that says at its end how it ended."""
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            _child(self.workload, tell, hook, kill_at_bill)
        os.close(tell)
        return pid, told

    def billed(self) -> int:
        """Calls that were made so far."""
        return len(_lines(self.workload.folder / "bill"))

    def run_to_the_end(self) -> None:
        assert self.run(), "a run that nobody killed was killed"

    def violations(self) -> list[str]:
        """Everything that is wrong, after a run that ended."""
        if not self.ended or self.ended[-1] != "SUCCEEDED":
            return [f"ENDS: {self.ended[-1:] or 'never'}"]
        return [*self._account(), *self._outputs(), *self._bill(), *self._leaks()]

    def _account(self) -> Iterator[str]:
        found = verify(self.workload.folder / "job")
        if sum(found.finished.values()) != self.workload.records:
            yield f"ACCOUNT: {found.finished}"

    def _outputs(self) -> Iterator[str]:
        folder, records = self.workload.folder, self.workload.records
        expected = Counter(range(records))
        rows = [json.loads(line) for line in _lines(folder / "out.jsonl")]
        yield from _compared("lines", Counter(row["n"] for row in rows), expected)
        firsts = Counter(line.split(",")[0] for line in _lines(folder / "out.csv")[1:])
        yield from _compared("rows", firsts, Counter(map(str, range(records))))
        with sqlite3.connect(folder / "out.db") as database:
            found = Counter(n for (n,) in database.execute("SELECT n FROM out"))
        database.close()
        yield from _compared("table", found, expected)
        with closing(KeyValue(folder / "out.kv").entries()) as entries:
            yield from _compared("entries", Counter(entry["n"] for entry in entries.values()), expected)
        if self.workload.index:
            with closing(DocumentReader(folder / "out.index")) as documents:
                found = Counter(int(documents[n].id) for n in range(read_manifest(folder / "out.index").documents))
            yield from _compared("index", found, expected)
        totals = dict(map(json.loads, _lines(folder / "sums.jsonl")))
        right = {key: sum(range(key, records, KEYS)) for key in range(min(KEYS, records))}
        if totals != right or len(_lines(folder / "sums.jsonl")) != len(right):
            yield f"DUP or LOST in sums: {totals}, not {right}"
        if self.workload.ordered:
            for key in range(KEYS):
                some = [row["n"] for row in rows if row["key"] == key]
                if some != sorted(some):
                    yield f"ORDER of key {key}: {some}"

    def _bill(self) -> Iterator[str]:
        calls = self.billed()
        most = self.workload.records + sum(self.in_flight)
        if calls > most:
            yield f"BILL: {calls} calls, and {most} would be the most with {self.in_flight} in flight at the kills"
        if max(self.in_flight, default=0) > self.workload.most_in_flight:
            yield f"BILL: {self.in_flight} in flight, and {self.workload.most_in_flight} may be"

    def _leaks(self) -> Iterator[str]:
        for pattern in (".*.sage-part", ".*.sage-tmp", ".out.index*", "job/calls-*", "job/blobs/*/.*"):
            yield from (f"LEAK: {path.name}" for path in self.workload.folder.glob(pattern))


def _compared(sink: str, found: Counter[Any], expected: Counter[Any]) -> Iterator[str]:
    for name, some in (
        ("LOST", expected.keys() - found.keys()),
        ("UNEXPECTED", found.keys() - expected.keys()),
        ("DUP", {n for n, times in found.items() if times > 1}),
    ):
        if some:
            yield f"{name} in {sink}: {sorted(some)[:10]}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _child(workload: Workload, tell: int, hook: Hook | None, kill_at_bill: int | None) -> None:
    """In the process of a run. Never returns."""
    try:
        if hook is not None:
            hook()
        if kill_at_bill is not None:
            _die_at(workload.folder / "bill", kill_at_bill)
        try:
            result = workload.run()
            word = result.status.value if result.error is None else f"{result.status.value} {result.error}"
        except sage.SageError as error:
            word = f"REFUSED {error}"
        os.write(tell, word.encode()[:4000])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _die_at(bill: Path, calls: int) -> None:
    """The operator stays as it is: with other code it would be another one, whose results are not used."""
    write = os.write

    def last(descriptor: int, data: bytes) -> int:
        written = write(descriptor, data)
        if len(_lines(bill)) >= calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    os.write = last


def _read_all(end: int) -> str:
    data = b""
    while piece := os.read(end, 4096):
        data += piece
    return data.decode()


class CrashPoints:
    """Counts the points at which something becomes safe: commits of the journal and fsyncs; dies at the one asked for.

    `before`: just before it, else just after it. As a hook, in the process of a run.
    """

    def __init__(self, at: int, *, before: bool) -> None:
        self._left = at
        self._before = before
        self._lock = threading.Lock()

    def __call__(self) -> None:
        from sage.runtime.durability.rows import Rows

        fsync, commit, replace = os.fsync, Rows._commit, os.replace
        os.fsync = lambda descriptor: self._point(fsync, descriptor)
        os.replace = lambda *names: self._point(replace, *names)  # type: ignore[assignment]
        Rows._commit = lambda rows: self._point(commit, rows)  # type: ignore[method-assign]

    def _point(self, act: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            self._left -= 1
            now = self._left == 0
        if now and self._before:
            os.kill(os.getpid(), signal.SIGKILL)
        act(*arguments)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what takes long on a good day: a cluster that starts, a machine that is given up."""
    until = time.monotonic() + 5 * DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


@contextmanager
def nemesis(seed: int) -> Iterator[random.Random]:
    """Where all chance comes from; a test that fails tells its seed."""
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def killed_and_resumed(workload: Workload, delays_s: Sequence[float]) -> History:
    """A job that is killed after each of these times, and then runs to its end."""
    workload.prepare()
    history = History(workload)
    for delay_s in delays_s:
        if history.run(kill_after_s=delay_s):
            return history
    history.run_to_the_end()
    return history
