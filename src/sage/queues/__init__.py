"""Queues: how data moves between threads, processes and machines.

::

    queue.py            Queue, the contract of every kind; QueueStats
    descriptor.py       QueueDescriptor: a queue's address as plain data; the registry of kinds
    frames.py           items between processes: the one place that pickles
    serving.py          what a queue offers to a server that lets other machines reach it
    waited.py           how long threads wait
    local_kind.py       threads of one process
        local.py            the handle, on
        local_store.py      what it holds, and how threads wait
        measured.py         the same, bounded in bytes
        sizes.py            how many bytes an item takes
        bells.py            threads that wait, and how they are woken
    shared_memory_kind.py   processes of one machine
        shared_memory.py    the handle, on
        shared_memory_file.py   the file behind it
        mapping.py          that file in this process
        shared_memory_putting.py    puts that are not the usual
        gathering.py        single items on their way into the ring, many at a time
        waiting.py          for items, for room, for others
        ring.py             the memory that small items go through, whose halves are
        ring_putting.py
        ring_getting.py
        ring_reading.py     frames as the items that are in them
        ring_hand.py        what an only consumer has at hand
        ring_layout.py      where everything is in it
        segments.py         the memory that large ones stay in
        peers.py            which processes there are, and which died
        robust.py           locks that survive their holder, and wake-ups
    sage.py             the quickest path between the ends, which may change
    ray.py              the drop-in for Ray's own queue
    ray_kind.py         queues that live in Ray actors
        ray_host.py         the actors
        ray_calls.py        calls in place of a connection
        ray_references.py   references to objects inside items
        front.py            a handle whose way to the queue may change
        watch.py            tells when another process ends
        coroutines.py       coroutines that wait for a queue
    rpc.py              queues over the network, on
        remote/             servers, links and remote handles
    strategy.py         which kind joins two places
    pool.py             the descriptors of a job as one document
    handles.py          the queues that this process has open
        exclusive.py        one thread at a time for each of them
    board.py            their figures, posted for other processes of the user
    overview.py         what all processes posted, put together; Prometheus text

This package knows nothing of steps: it imports nothing but the files at the bottom of the house.
"""

from sage.errors import QueueBroken, QueueClosed, QueueError
from sage.queues.descriptor import Place, QueueDescriptor, register_kind
from sage.queues.local import LocalQueue
from sage.queues.local_kind import LocalQueueDescriptor
from sage.queues.overview import HandleView, QueueView, metrics_text, overview
from sage.queues.pool import QueueDescriptorPool
from sage.queues.queue import BatchFull, Empty, Full, Queue, QueueStats
from sage.queues.ray_kind import RayQueueDescriptor
from sage.queues.remote.keys import new_key
from sage.queues.rpc import RPCQueue, RPCQueueDescriptor
from sage.queues.sage import SageQueue, SageQueueDescriptor
from sage.queues.shared_memory import SharedMemoryQueue
from sage.queues.shared_memory_kind import SharedMemoryQueueDescriptor
from sage.queues.strategy import CheapestKind, Choice, QueueCreationStrategy

__all__ = [
    "Queue",
    "QueueStats",
    "Full",
    "Empty",
    "BatchFull",
    "QueueError",
    "QueueClosed",
    "QueueBroken",
    "QueueDescriptor",
    "LocalQueueDescriptor",
    "LocalQueue",
    "SharedMemoryQueueDescriptor",
    "SharedMemoryQueue",
    "SageQueueDescriptor",
    "SageQueue",
    "RayQueueDescriptor",
    "RPCQueueDescriptor",
    "RPCQueue",
    "new_key",
    "register_kind",
    "QueueDescriptorPool",
    "QueueCreationStrategy",
    "CheapestKind",
    "Choice",
    "Place",
    "overview",
    "QueueView",
    "HandleView",
    "metrics_text",
]
