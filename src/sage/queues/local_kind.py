"""The kind of queue that never leaves its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sage.queues.descriptor import Place, QueueDescriptor, check_capacity, register_kind
from sage.queues.local import LocalQueue
from sage.queues.measured import MeasuredQueue


@register_kind
@dataclass(frozen=True, kw_only=True)
class LocalQueueDescriptor(QueueDescriptor):
    """A queue between threads of one process."""

    kind: ClassVar[str] = "local"
    cost: ClassVar[int] = 0
    leaves_process: ClassVar[bool] = False

    max_bytes: int | None = None
    """How many bytes the items may take together, by `size_of`. None: they are not counted, which is quicker."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bytes is not None:
            check_capacity("max_bytes", self.max_bytes, at=f"queue {self.queue_id}")

    @classmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        return None if producer == consumer else "the ends are in different processes"

    def _make(self) -> LocalQueue[Any]:
        if self.max_bytes is None:
            return LocalQueue(self.maxsize, queue_id=self.queue_id)
        return MeasuredQueue(self.maxsize, self.max_bytes, queue_id=self.queue_id)

    def _attach(self) -> LocalQueue[Any]:
        raise self.missing("it lives in the process that created it")
