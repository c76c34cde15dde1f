"""LLM endpoints: a pool that knows when to ask whom, a client that asks once, SAGE's errors.

::

    pool.py     EndpointPool: several endpoints as one; waits, chooses, fails over
    pooled.py   answers that come through it
    sharing.py  pools that all steps and jobs of this process share
    turns.py    whose turn it is; turnstile.py: those who wait for it
    balancer.py at which endpoint, and how many at once; breaker.py: whether it may be asked now
    drain.py    how quickly those that wait are sent; headroom.py: how many run without one waiting in the endpoint
    client.py   ChatClient: opens, asks, checks, closes
    upstream.py connections for answers that are passed on unread, for the gateway; connection.py: one of them
    answer.py   one answer as it arrives, its timeouts and limits
    wire.py     bytes <-> values: requests, answers, server-sent events
    pace.py     how many tokens a second come
    hosted.py   a server on a thread of this process; listening.py: at an address; address.py: of this machine or not
    simulated/  an endpoint without a GPU
    faults.py   what went wrong -> EndpointBusy, EndpointRefused, EndpointError or RecordError; the table of codes

Needs the extra ``llm`` (aiohttp), which is imported when a client is opened and not before; the gateway httptools too.
"""

from sage.llm.client import ChatClient
from sage.llm.pool import EndpointPool
from sage.llm.wire import Completion, Message

__all__ = ["ChatClient", "Completion", "EndpointPool", "Message"]
