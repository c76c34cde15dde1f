"""Kinds of queues beside the model."""

from typing import Any

from model import check_against_model

from sage.queues import LocalQueue, Queue, SharedMemoryQueueDescriptor


def test_local() -> None:
    check_against_model(LocalQueue)


def test_shared_memory() -> None:
    def make(maxsize: int | None) -> Queue[Any]:
        queue = SharedMemoryQueueDescriptor(maxsize=maxsize).create()
        queue.linger_ms = 1e6  # so that nothing but what is told makes items leave
        return queue

    check_against_model(make)
