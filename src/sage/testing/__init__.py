"""Checks of the contracts, for those who write their own sources, sinks, queues and schedulers.

::

    sources.py      check_source
    sinks.py        check_sink
    queues.py       check_queue; queue_walk.py: beside a model; queue_story.py: what is said
    queue_bytes.py  check_queue_bytes
    queue_ends.py   check_queue_ends
    schedulers.py   check_scheduler

A check raises `AssertionError` that tells what was done, what came, and what the contract asks for. No test runner
is needed.
"""

from sage.testing.queue_bytes import check_queue_bytes
from sage.testing.queue_ends import check_queue_ends
from sage.testing.queues import check_queue
from sage.testing.schedulers import check_scheduler
from sage.testing.sinks import check_sink
from sage.testing.sources import check_source

__all__ = ["check_queue", "check_queue_bytes", "check_queue_ends", "check_scheduler", "check_sink", "check_source"]
