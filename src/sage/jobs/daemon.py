"""The process of the job manager: one per state folder."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from sage.errors import UsageError
from sage.jobs.admission import Capacity
from sage.jobs.api import Api
from sage.jobs.endpoints import Gateways
from sage.jobs.folder import StateFolder, locked, read_json, storing, touch, write_json, write_text
from sage.jobs.manager import Manager, Say
from sage.jobs.server import Servers
from sage.jobs.store import Store
from sage.processes import Process, this_process

DEFAULT_MAX_RUNNING = 8
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    folder: StateFolder, *, capacity: Capacity, port: int | None, say: Say, ready: Callable[[int | None], None]
) -> None:
    """Be the job manager, until SIGTERM or SIGINT; jobs that run go on. Call it on the main thread.

    `ready` is called, with the port, once it answers. Raises `UsageError` E141 if another one runs, and
    `StorageError` if the folder or what is stored in it cannot be used.
    """
    folder.make()
    with _alone(folder), Gateways(folder).in_use():
        store = Store(folder.database)
        try:
            manager = Manager(folder, store, capacity=capacity, say=say)
            with _until_told(manager):
                servers = Servers(Api(manager, folder), folder, port, _token(folder))
                try:
                    with storing(folder.manager):
                        write_json(folder.manager, asdict(this_process()) | {"port": servers.port})
                    ready(servers.port)
                    manager.run()
                finally:
                    servers.close()
                    manager.close()
        finally:
            store.close()
            folder.manager.unlink(missing_ok=True)


def manager_of(folder: StateFolder) -> Process | None:
    """The process that is the manager of `folder`, if one is."""
    found = read_json(folder.manager)
    if found is None:
        return None
    process = Process(found["pid"], found["started"], found["boot"])
    return process if process.is_alive else None


@contextmanager
def _alone(folder: StateFolder) -> Iterator[None]:
    with storing(folder.lock):
        touch(folder.lock)
    try:
        with locked(folder.lock):
            yield
    except BlockingIOError as error:
        other = manager_of(folder)
        raise UsageError(
            "E141", "a job manager runs already", at=str(folder.path), got=f"process {other.pid}" if other else None,
            try_="sage jobmanager status",
        ) from error  # fmt: skip


@contextmanager
def _until_told(manager: Manager) -> Iterator[None]:
    def told(number: int, frame: FrameType | None) -> None:
        manager.stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, told) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _token(folder: StateFolder) -> str:
    """That of this folder; made when it is first needed, and anew where a crash has emptied the file."""
    with storing(folder.token):
        token = folder.token.read_text() if folder.token.exists() else ""
        if not token:
            token = secrets.token_urlsafe(32)
            write_text(folder.token, token)
        return token
