"""The kind of queue that joins processes of one machine. Linux only."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sage.errors import QueueError
from sage.queues import handles, shared_memory_file
from sage.queues.descriptor import Place, QueueDescriptor, check_capacity, register_kind
from sage.queues.exclusive import Exclusive
from sage.queues.ring_layout import UNBOUNDED
from sage.queues.shared_memory import SharedMemoryQueue

_files = Exclusive()  # whoever closes a file gives up all locks that this process has on it: no look at one that is new
_TOKEN = re.compile(r"[0-9a-f]{32}")


@register_kind
@dataclass(frozen=True, kw_only=True)
class SharedMemoryQueueDescriptor(QueueDescriptor):
    """A queue between processes of one machine that run as the same user."""

    kind: ClassVar[str] = "shared_memory"
    cost: ClassVar[int] = 10

    max_bytes: int = 64 * 1024 * 1024
    """How many bytes of large items fit, beside 4 MiB of small ones."""
    by_value: bool = False
    """Whether classes and functions of the script that runs travel along: for consumers that do not have it."""
    token: str = field(default_factory=lambda: os.urandom(16).hex())
    """Names the file. Nobody can guess it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at = f"queue {self.queue_id}"
        check_capacity("max_bytes", self.max_bytes, at=at)
        if type(self.by_value) is not bool:
            raise QueueError("E522", "by_value is not possible", at="$.by_value", expected="true or false")
        if not _TOKEN.fullmatch(str(self.token)):
            raise QueueError("E522", "the token is not possible", at="$.token", expected="32 hexadecimal digits")

    @property
    def path(self) -> Path:
        """The file in memory."""
        return shared_memory_file.path_of(self.token)

    @classmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        if producer.machine != consumer.machine:
            return "the ends are on different machines"
        folder = shared_memory_file.FOLDER
        if not sys.platform.startswith("linux") or not os.access(folder, os.W_OK):
            return f"{folder} cannot be written here"
        return None

    def _make(self) -> SharedMemoryQueue[Any]:
        with _files.take(shared_memory_file.FOLDER):
            return self._made()

    def _made(self) -> SharedMemoryQueue[Any]:
        known = [address for address in handles.addresses() if isinstance(address, SharedMemoryQueueDescriptor)]
        shared_memory_file.sweep({address.path for address in known})
        mapping = shared_memory_file.make(self.path, self._limit)
        queue: SharedMemoryQueue[Any] = SharedMemoryQueue(self, mapping, is_owner=True)
        try:
            shared_memory_file.publish(mapping.fd, self.path)  # it gets its name when it is whole
        except FileExistsError:
            queue.detach()
            raise QueueError("E503", "this queue exists already", at=f"queue {self.queue_id}") from None
        return queue

    def _attach(self) -> SharedMemoryQueue[Any]:
        with _files.take(shared_memory_file.FOLDER):
            return self._attached()

    def _attached(self) -> SharedMemoryQueue[Any]:
        try:
            mapping = shared_memory_file.attach(self.path, self._limit)
        except FileNotFoundError:
            raise self.missing("nobody has created it, or its owner has left") from None
        queue: SharedMemoryQueue[Any] = SharedMemoryQueue(self, mapping, is_owner=False)
        if not os.fstat(mapping.fd).st_nlink:
            with suppress(QueueError):
                queue.detach()
            raise self.missing("its owner left just now")
        return queue

    @property
    def _limit(self) -> int:
        return UNBOUNDED if self.maxsize is None else self.maxsize
