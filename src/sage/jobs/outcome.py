"""How a run of a job ended, by what it left in its folder; and what a process said last."""

from __future__ import annotations

import signal
from pathlib import Path

from sage.errors import HostError
from sage.jobs.folder import RunFolder
from sage.jobs.states import State

LOG_TAIL_BYTES = 2000
INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)


def outcome_of(run: RunFolder) -> tuple[State, str]:
    """The end of a run whose supervisor is gone, and the reason where there is more to say."""
    success = run.read_success()
    if success is not None:
        return State(success), ""
    end = run.read_end()
    if end is None:
        what = "the processes of the job are gone, and left no word about how it ended"
        return State.LOST, str(HostError("E820", what, at=str(run.path)))
    if end.memory_bytes:
        return State.FAILED, str(
            HostError(
                "E824", "the job used more memory than it may, and was ended", at=str(run.path),
                got=f"{end.memory_bytes / 1e6:,.0f} MB", try_="sage job submit --memory, with more",
            )
        )  # fmt: skip
    code, stopped = end.code, end.stopped
    error = next((result["error"]["text"] for result in reversed(run.read_results()) if result.get("error")), None)
    if error is not None:
        return State.FAILED, error
    if code in INTERRUPTED or (stopped and code == -signal.SIGKILL):
        return State.CANCELLED, "" if stopped else "a signal from outside stopped it"
    return State.FAILED, str(HostError("E822", _told(code), at=str(run.path), try_="sage job logs, for what it wrote"))


def _told(code: int) -> str:
    if code == 0:
        return "the file ended before its pipelines had"
    if code > 0:
        return f"the process of the job ended by itself with exit code {code}"
    memory = ", as by the system when memory runs out" if code == -signal.SIGKILL else ""
    return f"the process of the job was killed by {signal.Signals(-code).name}{memory}"


def last_line(log: Path) -> str:
    """What a process wrote last before it ended without a word."""
    try:
        lines = log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"
