"""Operators: the user's callables inside steps.

An operator is a function, an async function, or an object (or class without arguments) with ``__call__`` and,
if it likes, ``open(context)`` and ``close()``. Deriving from `Operator` is optional; it documents the
contract and lets a class give default options for the step it is used in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sage.flow.admission import Admission


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """What an operator may know of where it runs. Handed to ``open``."""

    pipeline: str
    step: str
    instance: int
    """0 .. parallelism - 1."""
    parallelism: int
    run_id: str = field(default="", compare=False)
    """Of the run that it works for: operators that share something between runs tell them apart by it."""


class Operator:
    """Base class for operators with state, or with default step options.

    The engine copies the object once per instance (by pickling), calls ``open`` once on the copy before the
    first record, then the object itself for each record (or for each list of records, if the step has a
    ``batch_size``; it must then return a list of the same length), and ``close`` once at the end, also after
    a failure. ``__call__`` may be a plain or an async method. ``open`` and ``close`` run on the thread (or
    event loop) that runs the calls; in a step with sync ``concurrency`` several threads call one instance.
    What cannot be pickled (connections, locks, models) is made in ``open``.
    """

    step_options: ClassVar[Mapping[str, Any]] = {}
    """Defaults for the options of the step, for example ``{"concurrency": 64}``; options given to the step win."""

    def check(self) -> None:
        """Raise a `SageError` if it can be known now that `open` would fail (a missing file, a bad setting).

        Called once where the run is started, before anything is opened; connects to nothing. The default does nothing.
        """

    def open(self, context: OperatorContext) -> None:
        """Get ready on the machine that runs the step. The default does nothing."""

    def admission(self) -> Admission | None:
        """Who lets its calls in, if they wait for turns; asked once, after `open`, in async steps."""
        return None

    def depends_on(self) -> Any:
        """Plain values beside its attributes that decide what it gives: settings that stand in for attributes, say.

        Results of other jobs are reused where these are the same. The default is None.
        """
        return None

    def close(self) -> None:
        """Let go of what `open` took. The default does nothing. Like `open`, it may be async in an async operator."""
