"""The board: each process posts the figures of the queues that it has open, and anybody of the same user reads them.

A posting is a small file in memory, replaced twice a second by one thread that exists only while queues are open. It
is removed at the end; what a killed process left is ignored, and removed by whoever reads next. What is read was
written by this user, and is data all the same: its owner, mode, size and form are checked, and what is not in order is
passed over.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import re
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from sage import settings
from sage.errors import QueueError, SageError
from sage.queues import handles
from sage.queues.front import Front
from sage.queues.queue import Queue, QueueStats

VERSION = 1
EVERY_S = 0.5
FIRST_S = 0.1
"""A process whose queues are open for less than this pays nothing."""
MAX_POSTING_BYTES = 8 << 20
_AT_MOST = 0.01  # of a processor, where there are thousands of queues
_LONGEST_S = 2.0
_WINDOW = 5  # postings over which the rates of a moment are taken
_NAME = re.compile(r"\.?queues-([1-9][0-9]{0,9})\.[a-z0-9]+")  # a draft begins with a dot
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HandleFigures:
    """One handle of one process, now and a moment ago. Moments are those of the machine's monotonic clock."""

    kind: str
    queue_id: str
    identity: str
    """The same for all handles of one queue, and only for those: two queues may have one name."""
    maxsize: int | None
    opened_at_s: float
    stats: QueueStats
    earlier: QueueStats
    between_s: float
    """How long before `stats` the `earlier` ones were; 0 where there are no earlier ones."""


@dataclass(frozen=True, slots=True)
class Posting:
    """What one process posted."""

    version: int
    process: int
    started: int
    """When the process began, in the system's own count: a process of the same number that began later is another."""
    program: str
    posted_at_s: float
    handles: tuple[HandleFigures, ...]


def read() -> list[Posting]:
    """The postings of every live process of this user on this machine. Raises E507 where the folder is not our own."""
    with _folder() as folder:
        return [] if folder is None else _postings(folder)


def _postings(folder: int) -> list[Posting]:
    """Those of live processes, by number. What dead ones left is removed."""
    found = []
    for name in os.listdir(folder):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        process = int(match[1])
        began = _beginning_of(process)
        posting = None if name.startswith(".") else _parsed(_own_file(folder, name))
        if began is None or (posting is not None and posting.started != began):
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
        elif posting is not None and posting.process == process:
            found.append(posting)
    return sorted(found, key=attrgetter("process"))


def _sweep(folder: int) -> None:
    """Remove what dead processes left, without a look inside."""
    for name in os.listdir(folder):
        if (match := _NAME.fullmatch(name)) and _beginning_of(int(match[1])) is None:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)


def _own_file(folder: int, name: str) -> bytes:
    """What is in a file of this user's; nothing if it is no such file."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:  # a link, or gone meanwhile
        return b""
    try:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid() or not stat.S_ISREG(about.st_mode) or stat.S_IMODE(about.st_mode) != 0o600:
            return b""
        return os.read(fd, MAX_POSTING_BYTES) if about.st_size <= MAX_POSTING_BYTES else b""
    finally:
        os.close(fd)


def _parsed(data: bytes) -> Posting | None:
    """The posting, if that is what the bytes are."""
    import msgspec

    try:
        posting = msgspec.json.decode(data, type=Posting)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return posting if posting.version == VERSION else None


def _beginning_of(process: int) -> int | None:
    """When a process began; None if there is no such process, or no more. Always 0 where the system does not say."""
    try:
        os.kill(process, 0)
        about = Path(f"/proc/{process}/stat").read_bytes()
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        return 0
    state, *fields = about.rpartition(b")")[2].split()  # from the third field on; the second may hold anything
    return None if state in (b"Z", b"X") else int(fields[18])


@contextmanager
def _folder(*, make: bool = False) -> Iterator[int | None]:
    """The folder of the postings, as a descriptor; None where there is none, and it is not to be made."""
    path = settings.load().runtime_dir
    try:
        if make:
            with suppress(FileExistsError):
                path.mkdir(0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = None
    except OSError as error:
        raise QueueError("E507", "the folder cannot be used", at=str(path), got=error.strerror) from error
    try:
        if fd is not None:
            _check_own(os.fstat(fd), path)
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _check_own(about: os.stat_result, path: Path) -> None:
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        what, expected = "the folder is open to other users", "a folder of this user's own, mode 0700"
        raise QueueError("E507", what, at=str(path), expected=expected, try_=f"ls -ld {path}")


class _Handle:
    """One handle over time."""

    def __init__(self, address: handles.Address, queue: Queue[Any]) -> None:
        self.queue = queue
        self._address = address
        self._opened_at_s = time.monotonic()
        self._seen: deque[tuple[float, QueueStats]] = deque(maxlen=_WINDOW)

    def figures(self, found_by: handles.Address) -> HandleFigures:
        """As they stand. Raises `QueueError` if the handle was given up just now."""
        self._seen.append((time.monotonic(), self.queue.get_stats()))
        (before_s, earlier), (now_s, stats) = self._seen[0], self._seen[-1]
        return HandleFigures(
            kind=self._address.kind,
            queue_id=self._address.queue_id,
            identity=_identity(found_by),
            maxsize=self.queue.maxsize,
            opened_at_s=self._opened_at_s,
            stats=stats,
            earlier=earlier,
            between_s=now_s - before_s,
        )


def _identity(address: handles.Address) -> str:
    """The same in every process; it does not tell what a descriptor may hold: a token, a key."""
    told = repr(address) if address.leaves_process else f"{address!r} of {os.getpid()}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class _Poster:
    """Posts for this process, on a thread, until it is told to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._known: dict[tuple[str, str], _Handle] = {}
        self._thread = threading.Thread(target=self._run, name="sage-queue-board", daemon=True)
        self._thread.start()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Remove the posting soon. Does not wait."""
        self._stop.set()

    def join(self) -> None:
        """Wait for the end of the thread, for a moment."""
        self._thread.join(EVERY_S)

    def _run(self) -> None:
        if self._stop.wait(FIRST_S):
            return
        try:
            with _folder(make=True) as folder:
                if folder is None:
                    raise QueueError("E507", "the folder cannot be made", at=str(settings.load().runtime_dir))
                _sweep(folder)
                while not self._stop.is_set():
                    began_s = time.thread_time()
                    _post(folder, self._figures())
                    took_s = time.thread_time() - began_s
                    self._stop.wait(min(max(EVERY_S, took_s / _AT_MOST), _LONGEST_S))
                with suppress(FileNotFoundError):  # should another poster have begun, it will post again
                    os.unlink(f"queues-{os.getpid()}.json", dir_fd=folder)
        except SageError as error:
            _log.warning("the figures of this process's queues are not shown: %s", error)

    def _figures(self) -> tuple[HandleFigures, ...]:
        before, self._known = self._known, {}
        opened = handles.opened()
        addresses = {id(queue): address for address, queue in opened}
        cores = {id(queue): id(queue.core) for _, queue in opened if isinstance(queue, Front)}
        figures = []
        for address, queue in opened:
            if id(queue) in cores.values():
                continue  # its front is shown
            handle = before.get((address.kind, address.queue_id))
            if handle is None or handle.queue is not queue:
                handle = _Handle(address, queue)
            with suppress(QueueError):  # it was given up just now
                # by its core, which other processes may have open without the front
                figures.append(handle.figures(addresses.get(cores.get(id(queue), 0), address)))
                self._known[address.kind, address.queue_id] = handle
        return tuple(figures)


def _post(folder: int, figures: tuple[HandleFigures, ...]) -> None:
    process = os.getpid()
    posting = Posting(
        version=VERSION,
        process=process,
        started=_beginning_of(process) or 0,
        program=Path(sys.argv[0]).name if sys.argv else "",
        posted_at_s=time.monotonic(),
        handles=figures,
    )
    draft = f".queues-{process}.{threading.get_native_id()}"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps(posting, default=_fields).encode())  # msgspec, imported now, would stop all for 20 ms
        os.replace(draft, f"queues-{process}.json", src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:  # no memory left, perhaps: the next time it may succeed
        _log.debug("the figures of queues are not posted this time: %s", error)


def _fields(part: Any) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__slots__}


_lock = threading.Lock()
_poster: _Poster | None = None
"""The latest; it may have been told to stop."""


def _keep_up() -> None:
    """Post while this process has queues open."""
    global _poster  # noqa: PLW0603 -- one for the process
    with _lock:
        if not handles.opened():
            if _poster is not None:
                _poster.stop()
        elif _poster is None or _poster.stopping:
            with suppress(RuntimeError):  # there is no thread to be had: queues work without
                _poster = _Poster()


def _end() -> None:
    if _poster is not None:
        _poster.stop()
        _poster.join()


def _forget_in_child() -> None:
    """A forked child has neither the thread nor open queues."""
    global _lock, _poster
    _lock, _poster = threading.Lock(), None


handles.when_changed(_keep_up)
atexit.register(_end)
os.register_at_fork(after_in_child=_forget_in_child)
