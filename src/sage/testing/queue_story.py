"""What the checks of queues say, and how long they wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

SHORT_S = 0.01
LONG_S = 20.0


def raises(kind: type[BaseException], work: Callable[[], object], story: str) -> Any:
    """The error that `work` must raise."""
    try:
        brought = work()
    except kind as error:
        return error
    raise AssertionError(f"{story}: must raise {kind.__name__}, but brought {brought!r}")


def takes(seconds: float, work: Callable[[], object]) -> None:
    """`work` must not be done sooner."""
    started = time.monotonic()
    work()
    took = time.monotonic() - started
    demand(took >= seconds * 0.9, f"a timeout of {seconds} s was over after {took:.4f} s")


def within(future: Future[Any]) -> Any:
    """What it brings soon enough."""
    return future.result(timeout=LONG_S)


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    latest = time.monotonic() + LONG_S
    pause = threading.Event()
    while not condition():
        demand(time.monotonic() < latest, f"waited {LONG_S} s in vain")
        pause.wait(0.001)


def demand(condition: bool, story: str) -> None:
    """Or tell the story."""
    if not condition:
        raise AssertionError(story)
