"""What every test gets: a folder of its own to run in, a check that it left nothing behind, and engines."""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import sage
from engines import Engine, LocalEngine, ProcessEngine, RayEngine
from patience import DEADLINE_S
from ray_nodes import MARKS, is_left_out
from ray_nodes import connected as connected_to_ray
from ray_nodes import two_nodes as two_nodes_of_ray
from sage import codec
from sage.queues import handles

Wait = Callable[[Callable[[], object]], None]
LONGEST_NAME = 40

# The same examples on every run, however slow the machine is; pytest --hypothesis-profile=default looks for new ones.
UNHURRIED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("sage", deadline=None, derandomize=True, database=None, suppress_health_check=UNHURRIED)
settings.load_profile("sage")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "one_process(reason): about something that only exists inside one process")
    config.addinivalue_line("markers", "once: the same on every engine; on one of them, unless --ray all asks for more")
    config.addinivalue_line("markers", "ray: runs on a Ray cluster")
    config.addinivalue_line("markers", "thorough: only where it is asked for (make test-ray)")
    config.addinivalue_line("markers", "root: needs root; skipped on a laptop, an error where CI=true")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ray", choices=["sample", "all"], default="sample", help="which tests run on the Ray engine too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Most tests of engines run on Ray only where that is asked for: each takes seconds there."""
    left_out = [item for item in items if is_left_out(item, config.getoption("--ray"))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """What was imported until now stays: without it, looking for what a test left behind takes a fifth as long."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is None or os.geteuid() == 0:
        return
    if os.environ.get("CI") == "true":
        pytest.fail("this test needs root, and in CI it must run")
    pytest.skip("needs root (to mount a file system, or to become another user)")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long parameters are named by their beginning and size: names of a megabyte go from process to process."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_NAME:
        return f"{val[:LONGEST_NAME]!a}...{len(val)}"
    return None


_CRASHED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """xdist marks a test of a group; --last-failed, which is not in its workers, has to find it by its name."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        report.nodeid = report.nodeid.removesuffix("@ray")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker ended; with an error if it crashed."""
    if error:
        node.config.stash[_CRASHED] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A crash is more than a failed test: nothing is tried again."""
    if session.config.stash.get(_CRASHED, False):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


@pytest.fixture
def wait_until() -> Wait:
    """Wait for a condition; fail when it has not come true after a while."""
    return _wait_until


def _wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + DEADLINE_S
    pause_s = 0.0005
    while not condition():
        assert time.monotonic() < until, f"waited {DEADLINE_S} s in vain"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, 0.01)  # what takes long is asked less often: it needs the processor itself


@pytest.fixture(autouse=True)
def nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Run in an empty folder; fail a test that leaves threads, child processes, descriptors or temporary files.

    Ray's own children and sockets come and go while this process is connected: then threads and queues are looked at.
    """
    monkeypatch.chdir(tmp_path)
    held = _held_beside_ray if request.node.get_closest_marker("ray") or _is_connected_to_ray() else _held
    before = held()
    yield
    until = time.monotonic() + DEADLINE_S
    while left := held() - before:
        if time.monotonic() > until:
            pytest.fail(f"left behind: {sorted(left)}")
        gc.collect()
        time.sleep(0.002)
    unfinished = [str(path) for path in tmp_path.rglob(".*.sage-tmp") if path.is_file() and not path.is_symlink()]
    assert not unfinished, "temporary files left behind"


def _held() -> set[str]:
    """What this process holds that a run might have forgotten."""
    return _threads() | _children() | _descriptors()


def _is_connected_to_ray() -> bool:
    """It may be by a fixture of the session, for other tests than this one."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _held_beside_ray() -> set[str]:
    return _threads() | {f"queue {address.queue_id}" for address in handles.addresses()}


def _threads() -> set[str]:
    return {f"thread {t.name} {t.ident}" for t in threading.enumerate() if t.name.startswith("sage-")}


def _children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {f"child process {pid}" for pid in (task / "children").read_text().split()}
        except OSError:  # the thread ended just now
            continue
    return found


def _descriptors() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:  # the one that lists the folder
            continue
        if not target.startswith(("/proc/", "/dev/", "/usr/")) and "site-packages" not in target:
            found.add(f"descriptor {link.name} of {target}")
    return found


ENGINES = [LocalEngine, ProcessEngine, pytest.param(RayEngine, marks=MARKS)]


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    made: Engine = request.param()
    if made.name == "ray":
        request.getfixturevalue("ray_driver")
    mark = request.node.get_closest_marker("one_process")
    if mark is not None and made.processes > 1:
        pytest.skip(mark.args[0])
    return made


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Any]:
    """A cluster of Ray with two nodes, both on this machine."""
    yield from two_nodes_of_ray()


@pytest.fixture(scope="module")
def ray_driver(two_nodes: Any) -> Iterator[Any]:
    """The module `ray`, connected to it."""
    yield from connected_to_ray(two_nodes)


@pytest.fixture
def letters() -> Callable[[sage.RunResult], list[dict[str, Any]]]:
    """Reads the dead letters of a run."""

    def read(result: sage.RunResult) -> list[dict[str, Any]]:
        if result.dead_letters is None:
            return []
        return [codec.decode(line) for line in result.dead_letters.read_bytes().splitlines()]

    return read
