"""All settings of SAGE, typed, in one place; nothing else in the package reads the environment.

Every setting has one name: ``llm_url`` is the key ``llm_url`` in the file and the variable ``SAGE_LLM_URL``. The file
is ``sage.toml`` in the current directory, or the one that ``SAGE_CONFIG`` names. The environment wins over the file,
and a variable that is set but empty counts as not set. Paths in the file are relative to the file.

==================  ================  ==================================================================================
setting             default           meaning
==================  ================  ==================================================================================
``llm_url``         none              an OpenAI-compatible endpoint, with or without ``/v1``. For one on this machine
                                      port 8001 is recommended, and 8901 where 8001 is taken (often under WSL2):
                                      ``http://127.0.0.1:8001``. Several that serve the same models: with commas between
``llm_key``         none              the key for it; environment only, never written in ``sage.toml``
``llm_key_file``    none              a file that holds the key, used where ``llm_key`` is not set
``llm_model``       none              the model to ask for; without it, the first that the endpoint lists
``llm_timeout_s``   300               the longest that one answer may take, in seconds
``gateway_url``     none              SAGE's gateway: pipelines ask it and nobody else, unless a step names its ``url``
``gateway_key``     none              the key for it; environment only
``data_dir``        XDG data home     where SAGE keeps its own files: ``$XDG_DATA_HOME/sage``, ``~/.local/share/sage``,
                                      or ``.sage`` in the current directory where there is no home
``runtime_dir``     in memory         where processes of this user on this machine find one another, all of them in the
                                      same folder: ``/dev/shm/sage-UID``, ``$XDG_RUNTIME_DIR/sage`` or ``/tmp/sage-UID``
``restarts``        3                 how often a run of several hosts begins again after one is lost, within a minute
``debug``           false             tracebacks in full
==================  ================  ==================================================================================

Codes: E240 unknown key, E241 wrong type, E242 value not allowed, E243 the file cannot be read or is not TOML, E244 the
key of the endpoint cannot be used.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.errors import PipelineError
from sage.setting_values import READERS, Given, Secret, check_secret, check_url, key_from

__all__ = [
    "RayAccess", "Secret", "Settings", "check_secret", "check_url", "environment", "inherit", "inheritable", "load",
    "ray_access",
]  # fmt: skip
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What was set, checked. `origins` has the variable or ``file:line`` of every value that is not a default."""

    data_dir: Path
    runtime_dir: Path
    llm_url: str | None = None
    llm_key: Secret | None = None
    llm_key_file: Path | None = None
    llm_model: str | None = None
    llm_timeout_s: float = 300.0
    gateway_url: str | None = None
    gateway_key: Secret | None = None
    restarts: int = 3
    debug: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def llm_urls(self) -> tuple[str, ...]:
        """The endpoints in ``llm_url``."""
        return tuple(self.llm_url.split(",")) if self.llm_url else ()


def load(environ: Mapping[str, str] | None = None, path: str | Path | None = None) -> Settings:
    """Read the settings from `environ` (default: the process's) and from the file `path` (default: see above).

    Raises one `PipelineError` that holds every problem found. Reads at most two small files; creates nothing.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("HOME")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[PipelineError] = []
    for given in _given(environ, path, problems):
        try:
            values[given.key] = READERS[given.key](given)
            origins[given.key] = given.origin
        except PipelineError as problem:
            problems.append(problem)
    key_file = values.get("llm_key_file")
    if key_file is not None and "llm_key" not in values:
        try:
            values["llm_key"] = key_from(key_file, origins["llm_key_file"])
            origins["llm_key"] = str(key_file)
        except PipelineError as problem:
            problems.append(problem)
    if problems:
        raise _all_of(problems)
    values.setdefault("data_dir", _default_data_dir(environ.get("XDG_DATA_HOME"), home))
    values.setdefault("runtime_dir", _default_runtime_dir(environ.get("XDG_RUNTIME_DIR")))
    return Settings(**values, origins=origins)


def inheritable() -> dict[str, str]:
    """The variables of SAGE in this process's environment, for processes of the same run that do not inherit them."""
    return {name: value for name, value in os.environ.items() if name.startswith("SAGE_")}


def inherit(variables: Mapping[str, str]) -> None:
    """Set what `inheritable` told of another process."""
    os.environ.update(variables)


@dataclass(frozen=True, slots=True)
class RayAccess:
    """The cluster and the token that Ray itself would take: its address, and the token or the file that holds it."""

    address: str | None
    token: Secret | None
    token_path: Path | None


def ray_access(environ: Mapping[str, str] | None = None) -> RayAccess:
    """From Ray's own variables, and from its file ``~/.ray/auth_token`` if that is there."""
    environ = os.environ if environ is None else environ
    token = environ.get("RAY_AUTH_TOKEN")
    path = environ.get("RAY_AUTH_TOKEN_PATH")
    default = Path(environ["HOME"], ".ray", "auth_token") if environ.get("HOME") else None
    return RayAccess(
        environ.get("RAY_ADDRESS") or None,
        Secret(token) if token else None,
        Path(path) if path else default if default is not None and default.exists() else None,
    )


@contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """This process's environment with `variables` set, and those that are None not set, until the end of the block.

    For libraries that are told through the environment only.
    """
    before = {name: os.environ.get(name) for name in variables}
    _put(variables)
    try:
        yield
    finally:
        _put(before)


def _put(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _given(environ: Mapping[str, str], path: str | Path | None, problems: list[PipelineError]) -> list[Given]:
    """Every value that was set, the winning one for each key; what is wrong with the file goes to `problems`."""
    home = environ.get("HOME")
    found: dict[str, Given] = {}
    chosen = path or environ.get("SAGE_CONFIG")
    file = Path(chosen or "sage.toml")
    if chosen or file.exists():
        try:
            table, lines = _read_toml(file)
        except PipelineError as problem:
            problems.append(problem)
            table, lines = {}, []
        for key, value in table.items():
            at = f"{file}:{_line_of(key, lines)}"
            if key in READERS:
                found[key] = Given(key, value, at, file.parent, home, from_file=True)
            else:
                problems.append(_unknown(key, at))
    for key in READERS:
        variable = f"SAGE_{key.upper()}"
        if environ.get(variable):
            found[key] = Given(key, environ[variable], variable, Path(), home, from_file=False)
    return list(found.values())


def _read_toml(file: Path) -> tuple[dict[str, Any], list[str]]:
    import tomllib  # most processes have no file to read

    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PipelineError("E243", "the settings file cannot be read", at=str(file), got=error.strerror) from error
    if len(raw) > MAX_FILE_BYTES:
        raise PipelineError("E243", "the settings file is too large", at=str(file), expected="at most 1 MB")
    try:
        text = raw.decode("utf-8-sig")
        return tomllib.loads(text), text.splitlines()
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PipelineError("E243", "the settings file is not valid TOML", at=str(file), got=str(error)) from error


def _line_of(key: str, lines: list[str]) -> int:
    """The line that sets the top-level `key` (or opens the table of that name)."""
    for number, line in enumerate(lines, 1):
        name = line.strip().lstrip("[").replace('"', "").replace("'", "")
        if name.startswith(key) and name[len(key) :].lstrip()[:1] in ("=", ".", "]"):
            return number
    return 1


def _unknown(key: str, at: str) -> PipelineError:
    close = difflib.get_close_matches(key, READERS, n=1)
    try_ = close[0] if close else "one of " + ", ".join(READERS)
    return PipelineError("E240", "there is no such setting", at=at, got=key, try_=try_)


def _default_data_dir(xdg_data_home: str | None, home: str | None) -> Path:
    if xdg_data_home and Path(xdg_data_home).is_absolute():  # the XDG specification: a relative one is ignored
        return Path(xdg_data_home, "sage")
    return Path(home, ".local", "share", "sage") if home else Path(".sage")


def _default_runtime_dir(xdg_runtime_dir: str | None) -> Path:
    """Not XDG's folder where there is another: a service and a shell of one user would look in different ones."""
    if os.access("/dev/shm", os.W_OK):
        return Path(f"/dev/shm/sage-{os.geteuid()}")
    if xdg_runtime_dir and Path(xdg_runtime_dir).is_absolute():
        return Path(xdg_runtime_dir, "sage")
    return Path(f"/tmp/sage-{os.geteuid()}")


def _all_of(problems: list[PipelineError]) -> PipelineError:
    if len(problems) == 1:
        return problems[0]
    lines = "".join(f"\n  {problem}" for problem in problems)
    return PipelineError("E200", f"{len(problems)} problems in the settings:{lines}", problems=problems)
