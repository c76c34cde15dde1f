"""Questions of a host to its driver, and who waits for the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from sage.runtime.control import Control
from sage.runtime.durable import Question
from sage.runtime.messages import Answer, Asked


class Asking:
    """Of one host. `send` sends a message to the driver. From any thread."""

    def __init__(self, host: int, send: Callable[[object], None], control: Control) -> None:
        self._host = host
        self._send = send
        self._control = control
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._numbers = count(1)
        self._answers: dict[int, Any] = {}
        control.on_abort(self._wake)

    def ask(self, question: Question) -> Any:
        """The driver's answer. Raises it, if it is an exception, and `Aborted`."""
        number = next(self._numbers)
        self._send(Asked(self._host, number, question))
        with self._lock:
            while number not in self._answers:
                self._control.check()
                self._news.wait()
            value = self._answers.pop(number)
        if isinstance(value, BaseException):
            raise value
        return value

    def tell(self, question: Question) -> None:
        """Ask what needs no answer."""
        self._send(Asked(self._host, None, question))

    def take(self, answer: Answer) -> None:
        """An answer has come."""
        with self._lock:
            self._answers[answer.number] = answer.value
            self._news.notify_all()

    def _wake(self) -> None:
        with self._lock:
            self._news.notify_all()
