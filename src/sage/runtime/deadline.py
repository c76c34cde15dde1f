"""A time limit on calls of plain functions: the caller goes on, the function is left behind on its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sage.errors import PipelineError, StepTimeout

MOST_LEFT_BEHIND = 32


class Deadline:
    """Calls `function` on a thread of its own and waits `timeout_s` for it.

    Python cannot end a thread. A call that does not return in time keeps its thread until it does; its result is
    dropped. With more than 32 such threads the step is given up with a fatal error: each costs memory and perhaps a
    processor. A function that holds the interpreter's lock for ever cannot be timed out; run it in a process.
    Used by one thread at a time.
    """

    def __init__(self, function: Callable[[Any], Any], timeout_s: float, step: str) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._step = step
        self._left_behind: list[_Worker] = []
        self._worker: _Worker | None = None

    def __call__(self, argument: Any) -> Any:
        worker = self._worker or _Worker(self._function, self._step)
        self._worker = None
        if not worker.run(argument, self._timeout_s):
            self._left_behind = [each for each in (*self._left_behind, worker) if each.is_alive]
            if len(self._left_behind) > MOST_LEFT_BEHIND:
                raise PipelineError(
                    "E231", f"{len(self._left_behind)} calls never returned", at=f"step {self._step!r}",
                    try_="an operator that honours a timeout of its own",
                )  # fmt: skip
            raise StepTimeout(
                "E410", f"no result within {self._timeout_s:g} s", at=f"step {self._step!r}", try_="a larger timeout_s"
            )
        self._worker = worker
        if worker.error is not None:
            raise worker.error
        return worker.result

    def close(self) -> None:
        """Let the idle thread end. Threads left behind end when their call does."""
        if self._worker is not None:
            self._worker.dismiss()
            self._worker = None


class _Worker:
    def __init__(self, function: Callable[[Any], Any], step: str) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._argument: Any = None
        self._asked = threading.Semaphore(0)
        self._answered = threading.Semaphore(0)
        self._dismissed = False
        self._thread = threading.Thread(target=self._serve, name=f"sage-deadline-{step}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def run(self, argument: Any, timeout_s: float) -> bool:
        """True if the call returned (or raised) in time; if not, the worker dismisses itself after the call."""
        self._argument = argument
        self.error = None
        self._asked.release()
        if self._answered.acquire(timeout=timeout_s):
            return True
        self._dismissed = True
        self._asked.release()  # it may have answered just now and wait for the next call
        return False

    def dismiss(self) -> None:
        self._dismissed = True
        self._asked.release()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            self._asked.acquire()
            if self._dismissed:
                return
            try:
                self.result = self._function(self._argument)
            except BaseException as error:  # noqa: BLE001 -- handed to the caller, whatever it is
                self.error = error
            self._answered.release()
