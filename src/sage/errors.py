"""Every exception of SAGE, worded by who is at fault.

::

    SageError                  what is wrong, where, and what to do; carries a code and an exit code
    |- UsageError              E1xx  exit 2   the command line
    |- PipelineError           E2xx  exit 3   the pipeline or its configuration; lists every problem at once
    |  |- MissingDependency    E230  exit 3   an optional package is not installed
    |  `- SchedulingError      E245  exit 3   no node can carry a task, or there is no such scheduler
    |- SourceError             E3xx  exit 4   a source cannot be opened or read
    |- RecordError             E4xx           one record is at fault: it is dead-lettered and the job goes on
    |  `- StepTimeout          E410           the operator did not return within `timeout_s`
    |- QueueError              E50x  exit 6   a queue, or E52x its descriptor
    |  |- QueueClosed          E505           it was closed: nothing can be put any more, or nothing is left to get
    |  `- QueueBroken          E506           the other end died; `items` holds what could not be delivered
    |- SinkError               E55x  exit 5   a sink cannot be opened or written
    |- StorageError            E6xx  exit 6   the journal, the ledger, dead letters or an index on disk
    |- EndpointError           E7xx  exit 7   an LLM or embedding endpoint answered wrongly: this attempt failed
    |  |- EndpointBusy         E72x           not a failure: the record waits `retry_after_s` and burns no retry
    |  `- EndpointRefused      E70x           every request will be refused (wrong key, unknown model): the job ends
    |- HostError               E81x  exit 9   a process that the run needs was lost
    |- ClusterError            E83x  exit 9   a Ray cluster cannot be started, found or joined
    `- InternalError           E9xx  exit 70  SAGE broke one of its own invariants

The text has one form everywhere (``str(error)``)::

    E<code> <what is wrong> at <place>: got <short>, expected <...>. Try: <...>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

MAX_GOT_CHARS = 200


def shorten(value: object, limit: int = MAX_GOT_CHARS) -> str:
    """One printable line of at most `limit` characters: control characters and lone surrogates are escaped."""
    if isinstance(value, str):
        text = value[: limit * 4]
    elif isinstance(value, bytes | bytearray):
        text = repr(bytes(value[: limit * 4]))
    else:
        try:
            text = repr(value)
        except Exception as error:  # noqa: BLE001 -- a broken __repr__ must not hide the error being reported
            text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text[: limit * 2]
    )
    return text if len(text) <= limit else text[: limit - 3] + "..."


class SageError(Exception):
    """The base: catch this to catch everything that SAGE raises on purpose.

    `code` is like ``E302``; `exit_code` is what the command line returns.
    """

    exit_code: ClassVar[int] = 70
    fatal: ClassVar[bool] = False
    """Every record would fail like this one: an operator or sink that raises it ends the job."""

    def __init__(
        self,
        code: str,
        what: str,
        *,
        at: str | None = None,
        got: object = None,
        expected: str | None = None,
        try_: str | None = None,
    ) -> None:
        self.code = code
        self.what = what
        self.at = at
        self.got = None if got is None else shorten(got)
        self.expected = expected
        self.try_ = try_
        super().__init__(self._text())

    def _text(self) -> str:
        text = f"{self.code} {self.what}"
        if self.at:
            text += f" at {self.at}"
        details = []
        if self.got is not None:
            details.append(f"got {self.got}")
        if self.expected:
            details.append(f"expected {self.expected}")
        if details:
            text += ": " + ", ".join(details)
        if self.try_:
            text += f". Try: {self.try_}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.__dict__.copy(), self.args)


def _rebuild(cls: type[SageError], state: dict[str, object], args: tuple[object, ...]) -> SageError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = args
    return error


class UsageError(SageError):
    """The command line cannot be carried out as given."""

    exit_code = 2


class PipelineError(SageError):
    """The pipeline cannot run as described. `problems` holds every mistake that was found, one error each."""

    exit_code = 3
    fatal = True

    def __init__(
        self,
        code: str,
        what: str,
        *,
        at: str | None = None,
        got: object = None,
        expected: str | None = None,
        try_: str | None = None,
        problems: Sequence[PipelineError] = (),
    ) -> None:
        self.problems = tuple(problems)
        super().__init__(code, what, at=at, got=got, expected=expected, try_=try_)

    @classmethod
    def of(cls, pipeline_name: str, problems: Sequence[PipelineError]) -> PipelineError:
        """One error for all `problems` (at least one)."""
        if len(problems) == 1:
            return problems[0]
        lines = "".join(f"\n  {problem}" for problem in problems)
        return cls("E200", f"{len(problems)} problems in pipeline {pipeline_name!r}:{lines}", problems=problems)


class MissingDependency(PipelineError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        self.package = package
        super().__init__(
            "E230",
            f"{needed_for} needs the package {package!r}",
            try_=f"pip install {package}, or SAGE with its extra [{extra}]",
        )


class SchedulingError(PipelineError):
    """No node can carry a task, or there is no such scheduler."""


class SourceError(SageError):
    """A source cannot be opened or read."""

    exit_code = 4


class RecordError(SageError):
    """One record is at fault. It becomes a dead letter with this text as its reason; its neighbours go on.

    With ``on_error="fail"`` it ends the job instead."""

    exit_code = 3


class StepTimeout(RecordError):
    """The operator did not return within the step's `timeout_s`."""


class QueueError(SageError):
    """A queue cannot be made, reached or used. `items` holds those of a put that were not delivered."""

    exit_code = 6
    items: Sequence[object] = ()


class QueueClosed(QueueError):
    """The queue was closed: nothing can be put any more, or everything that was put has been got."""


class QueueBroken(QueueError):
    """The process at the other end died. What it had put can still be got; a new process may take its place."""


class SinkError(SageError):
    """A sink cannot be opened or written; the job ends, and what was not written stays unread by the ledger."""

    exit_code = 5
    fatal = True


class StorageError(SageError):
    """SAGE's own files (journal, ledger, dead letters, index) cannot be read or written."""

    exit_code = 6
    fatal = True


class EndpointError(SageError):
    """An endpoint failed this attempt: refused, 5xx, wrong answer, half a stream. The step's retries apply."""

    exit_code = 7


class EndpointBusy(EndpointError):
    """The endpoint asks to wait (429, 503, connection refused): the record is parked for `retry_after_s`
    seconds (None: the step's own backoff) and tried again. It is not a failure and burns no retry."""

    def __init__(
        self,
        code: str,
        what: str,
        *,
        retry_after_s: float | None = None,
        at: str | None = None,
        got: object = None,
        expected: str | None = None,
        try_: str | None = None,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(code, what, at=at, got=got, expected=expected, try_=try_)


class EndpointRefused(EndpointError):
    """The endpoint will refuse every request (wrong key, unknown model): the job ends."""

    fatal = True


class HostError(SageError):
    """A process that runs a part of the pipeline ended before its work was done: killed, or out of memory."""

    exit_code = 9
    fatal = True


class ClusterError(SageError):
    """A Ray cluster cannot be started, found or joined, or is not what it should be."""

    exit_code = 9
    fatal = True


class InternalError(SageError):
    """SAGE broke an invariant of its own, for example an account that does not balance. Please report it."""

    exit_code = 70
    fatal = True
