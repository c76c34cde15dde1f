"""A job as plain data: what was submitted, and what became of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sage.errors import StorageError, UsageError
from sage.jobs.states import State, check_transition
from sage.processes import Process

ID = re.compile(r"[0-9a-f]{8}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BANDS = 10
"""Priorities go from 0, the most urgent, to 9."""
DEFAULT_BAND = 5
MAX_DELAY_S = 7 * 86_400.0
MAX_WEIGHT = 100.0
LEAST_MEMORY_BYTES = 32 << 20
"""Python alone takes 20 MB, and SAGE 30."""
MAX_COUNT = 10**12
MAX_TEXT = 4096
MAX_ARGUMENTS = 1000
KEPT_CHANGES = 50
ENGINES = ("local", "ray")
"""As in `sage.runtime.run`, which the manager does not load."""


def new_id() -> str:
    """An id that no job has."""
    return secrets.token_hex(4)


def check_id(job: str) -> str:
    """`job`, if it can be the id of one; raises `UsageError` E142. What passes is safe in a path."""
    if not ID.fullmatch(job):
        expected = "8 characters of 0-9 and a-f"
        raise UsageError("E142", "this is not the id of a job", got=job, expected=expected, try_="sage job list")
    return job


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What is to be run, and how. Nothing in it changes after it was submitted."""

    file: str
    """The Python file, as an absolute path."""
    folder: str
    """The working directory of the run, as an absolute path."""
    name: str = ""
    """For people; by default that of the file."""
    arguments: tuple[str, ...] = ()
    pipeline: str | None = None
    engine: str | None = None
    """By default what the file says; if that says nothing, this machine."""
    address: str | None = None
    """Of the cluster, for engine ``ray``; by default a private one."""
    hosts: int | None = None
    scheduler: str | None = None
    insecure_cluster: bool = False
    processes: int | None = None
    restarts: int | None = None
    discard_steps: tuple[str, ...] = ()
    first: int | None = None
    """Records of each partition of its sources that it reads; by default all."""
    dead_letters: str | None = None
    """Where dead letters go; by default a file in the folder of the run."""
    max_dead_letters: int | None = None
    append: bool = False
    job_dir: str | None = None
    """Where its runs keep what the next one needs to go on. A run that is killed is then followed by another."""
    reuse: str | None = None
    """A folder of results that jobs share."""
    priority: int = DEFAULT_BAND
    start_delay_s: float = 0.0
    user: str = ""
    """For whom it runs: quotas are by this name. By default the owner of the manager."""
    weight: float = 1.0
    """Its share of processors and of endpoints, beside jobs of weight 1."""
    processors: float = 0.0
    """That it keeps busy, and waits for; 0: it does not say."""
    memory_bytes: int = 0
    """That it may use, and waits for: beyond it, it is ended. 0: no limit."""
    places: int = 0
    """Calls that it has in flight at endpoints, and waits for; 0: it does not say."""
    max_in_flight: int | None = None
    """Records read and not finished at most."""
    shared_endpoints: bool = True
    """Ask the endpoints of the settings through the gateway that all jobs share."""
    python: str = ""
    """The interpreter; by default the manager's."""
    sha256: str = ""
    """Of the file when it was submitted; set by the manager. A file that has changed since is not run."""


@dataclass(frozen=True, slots=True)
class Change:
    """A transition that happened."""

    state: State
    at: float
    """Wall clock."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """What the manager knows about a job, and stores."""

    id: str
    spec: JobSpec
    submitted_at: float
    """Wall clock."""
    state: State = State.PENDING
    reason: str = ""
    """Why it is in this state, where there is more to say than the state does."""
    run: int = 0
    """How often it was started."""
    abort: bool = False
    """It was told to stop twice: it ends at once."""
    supervisor: Process | None = None
    max_in_flight: int | None = None
    """What was said of it since it was submitted, instead of what the spec says; 0: no limit."""
    changes: tuple[Change, ...] = field(default=())
    """How it came to be in this state; the last `KEPT_CHANGES`."""

    def changed(self, state: State, at: float, reason: str = "", **values: Any) -> Job:
        """The job in `state`, with other `values` changed too. Raises E144 if that may not follow."""
        check_transition(self.id, self.state, state)
        changes = (*self.changes, Change(state, at, reason))[-KEPT_CHANGES:]
        return replace(self, state=state, reason=reason, changes=changes, **values)


def spec_of(given: object) -> JobSpec:
    """The spec in `given`, a decoded JSON object. Raises `UsageError` E145 that names the field."""
    if not isinstance(given, dict):
        raise _unfit("the job", given, "a JSON object")
    known = {one.name for one in fields(JobSpec)} - {"sha256"}
    for key in given:
        if key not in known:
            raise UsageError("E145", "a job has no such field", got=key, expected=", ".join(sorted(known)))
    for key in ("file", "folder"):
        if key not in given:
            raise UsageError("E145", "a field of the job is missing", at=key, expected="an absolute path")
    values: dict[str, Any] = {key: _CHECKS[key](key, value) for key, value in given.items()}
    if not values.get("name"):
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", values["file"].rpartition("/")[2].removesuffix(".py")).strip("-._")
        values["name"] = stem[:64] or "job"
    return JobSpec(**values)


def check_in_flight(value: object) -> int | None:
    """`value`, if it can be a limit of records in flight, or None for no limit. Raises `UsageError` E145."""
    return _positive("max_in_flight", value)


def stored_spec(stored: Mapping[str, Any]) -> JobSpec:
    """The spec that `dataclasses.asdict` made JSON of."""
    texts = {key: tuple(value) for key, value in stored.items() if isinstance(value, list)}
    return JobSpec(**{**stored, **texts})


def to_json(job: Job) -> dict[str, Any]:
    """`job` as what JSON can hold; `job_of` is the way back."""
    return asdict(job)


def job_of(stored: Mapping[str, Any]) -> Job:
    """The job that `to_json` made. Raises `StorageError` E604 if it is none."""
    try:
        values = dict(stored)
        values["spec"] = stored_spec(values["spec"])
        values["state"] = State(values["state"])
        values["changes"] = tuple(Change(**change | {"state": State(change["state"])}) for change in values["changes"])
        values["supervisor"] = Process(**values["supervisor"]) if values["supervisor"] is not None else None
        return Job(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError("E604", "this is no stored job", got=error) from error


def _unfit(key: str, value: object, expected: str) -> UsageError:
    what = "a field of the job has a value that it cannot have"
    return UsageError("E145", what, at=key, got=value, expected=expected)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value or not _is_utf8(value):
        raise _unfit(key, value, f"text of at most {MAX_TEXT} characters")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(key: str, value: object) -> str:
    if not _text(key, value).startswith("/"):
        raise _unfit(key, value, "an absolute path")
    return str(value)


def _optional_path(key: str, value: object) -> str | None:
    return None if value is None else _path(key, value)


def _name(key: str, value: object) -> str:
    if not NAME.fullmatch(_text(key, value)):
        raise _unfit(key, value, "a letter or digit, then up to 63 of these and ._-")
    return str(value)


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ARGUMENTS:
        raise _unfit(key, value, f"a list of at most {MAX_ARGUMENTS} texts")
    return tuple(_text(key, one) for one in value)


def _engine(key: str, value: object) -> str | None:
    if value is not None and value not in ENGINES:
        raise _unfit(key, value, " or ".join(ENGINES))
    return None if value is None else str(value)


def _optional_text(key: str, value: object) -> str | None:
    return None if value is None else _text(key, value)


def _count(key: str, value: object) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value < MAX_COUNT):
        raise _unfit(key, value, "a whole number from 0 on")
    return value


def _positive(key: str, value: object) -> int | None:
    if value is not None and (type(value) is not int or not 1 <= value < MAX_COUNT):
        raise _unfit(key, value, "a whole number from 1 on")
    return value


def _memory(key: str, value: object) -> int:
    if type(value) is not int or (value and not LEAST_MEMORY_BYTES <= value < 1 << 50):
        raise _unfit(key, value, f"bytes, at least {LEAST_MEMORY_BYTES}, or 0")
    return value


def _amount(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        raise _unfit(key, value, "a number from 0 on")
    return float(value)


def _weight(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 / MAX_WEIGHT <= value <= MAX_WEIGHT:
        raise _unfit(key, value, f"a number, {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    return float(value)


def _places(key: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < MAX_COUNT:
        raise _unfit(key, value, "a whole number from 0 on")
    return value


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _unfit(key, value, "true or false")
    return value


def _band(key: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < BANDS:
        raise _unfit(key, value, f"0 (most urgent) to {BANDS - 1}")
    return value


def _delay(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DELAY_S:
        raise _unfit(key, value, f"seconds, 0 to {MAX_DELAY_S:.0f}")
    return float(value)


_CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "file": _path,
    "folder": _path,
    "name": lambda key, value: value and _name(key, value),
    "arguments": _texts,
    "pipeline": _optional_text,
    "engine": _engine,
    "address": _optional_text,
    "hosts": _positive,
    "scheduler": _optional_text,
    "insecure_cluster": _flag,
    "processes": _count,
    "restarts": _count,
    "discard_steps": _texts,
    "first": _positive,
    "dead_letters": _optional_path,
    "max_dead_letters": _count,
    "append": _flag,
    "job_dir": _optional_path,
    "reuse": _optional_path,
    "priority": _band,
    "start_delay_s": _delay,
    "user": lambda key, value: value and _name(key, value),
    "weight": _weight,
    "processors": _amount,
    "memory_bytes": _memory,
    "places": _places,
    "max_in_flight": _positive,
    "shared_endpoints": _flag,
    "python": lambda key, value: value and _path(key, value),
}
