"""References to Ray's objects inside items: kept alive from the put to the get, and known to Ray at the other end.

Ray must see a reference leave and arrive, or it frees the object on the way. So the actor that hosts the queue gets the
references of an item in a call of their own and holds them; whoever unpickles the item calls for them. Items without
references pay nothing: the pickler looks references up by their type.
"""

from __future__ import annotations

import copyreg
import secrets
import threading
from types import TracebackType
from typing import Any, NamedTuple, Self

import ray

from sage.errors import QueueError
from sage.queues.frames import PLAIN, Frozen, pack


class Host(NamedTuple):
    """The actor that holds them, by its name."""

    name: str
    namespace: str

    def actor(self) -> Any:
        """A handle to it. Raises `ValueError` where it is dead."""
        return ray.get_actor(self.name, self.namespace)


class _Here(threading.local):
    """The put that this thread is about."""

    host: Host | None = None
    found: dict[str, Any]


_here = _Here()


class Deposits:
    """While it is entered, items that this thread pickles are for the queue of `host`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __enter__(self) -> Self:
        _here.host, _here.found = self._host, {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """What was put may be got before the references arrive: then its consumer waits for them."""
        _here.host = None
        if _here.found:
            self._host.actor().deposit.remote(list(_here.found), list(_here.found.values()))
            _here.found = {}

    def frozen(self, item: Any) -> Any:
        """`item`, or where it holds references something that arrives as `item`. While it is entered.

        For queues that pickle later, on another thread. Raises E509 where a large buffer is beside the references.
        """
        if type(item) in PLAIN:
            return item
        before = len(_here.found)
        frame = pack(item, by_value=True)
        if len(_here.found) == before:
            return item
        if frame.buffers:
            what = "references beside large buffers cannot go to another node"
            raise QueueError("E509", what, got=item, try_="ray.put() the large one too")
        return Frozen(bytes(frame.data))


def _reduced(reference: Any) -> Any:
    if _here.host is None:
        return reference.__reduce__()  # no business of ours
    token = secrets.token_hex(16)
    _here.found[token] = reference
    return _collected, (*_here.host, token)


def _collected(name: str, namespace: str, token: str) -> Any:
    (reference,) = ray.get(Host(name, namespace).actor().redeem.remote(token))
    return reference


copyreg.pickle(ray.ObjectRef, _reduced)  # Ray's own pickler has an entry of its own, and does not see this one
