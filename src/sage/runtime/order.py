"""Keeping the order of equal keys while their calls overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any


class Turn:
    """One call's place in the order; `release` may run when all calls before it with a common key are done."""

    __slots__ = ("keys", "release")

    def __init__(self, keys: tuple[Hashable, ...]) -> None:
        self.keys = keys
        self.release: Callable[[], Any] | None = None


class OrderGate:
    """Lets calls finish in any order and their outputs leave in the order in which they entered, key by key.

    Not thread-safe: users from several threads hold a lock around `enter` and around `leave`.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[Turn]] = {}

    def enter(self, keys: Iterable[Hashable]) -> Turn:
        """Take the place behind all earlier turns that have one of `keys`."""
        turn = Turn(tuple(dict.fromkeys(keys)))
        for key in turn.keys:
            self._lines.setdefault(key, deque()).append(turn)
        return turn

    def leave(self, turn: Turn, release: Callable[[], Any]) -> None:
        """The call is done: run `release` now or when the turns before it have left. Also due after a failure."""
        turn.release = release
        ready = [turn]
        while ready:
            head = ready.pop()
            if head.release is None or any(self._lines[key][0] is not head for key in head.keys):
                continue
            head.release()
            head.release = None
            for key in head.keys:
                line = self._lines[key]
                line.popleft()
                if line:
                    ready.append(line[0])
                else:
                    del self._lines[key]
