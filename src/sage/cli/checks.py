"""What ``sage doctor`` looks at. Every check looks, leaves no trace, and says what to do."""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata as packages
import platform
import re
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sage import settings
from sage.errors import PipelineError, SageError, shorten
from sage.llm.client import ChatClient
from sage.rag.model import MODEL_NAME, require_model
from sage.settings import Settings
from sage.version import __version__

DISTRIBUTION = "sage-pipelines"
LLM_PORTS = (8001, 8901)
SMALL_SHARED_MEMORY_BYTES = 256 << 20
FEW_FILES = 1024
FIRST_SANE_WALL_S = 1_735_689_600  # 2025-01-01: a clock before that was never set
ENDPOINT_PATIENCE_S = 10.0


class Level(StrEnum):
    """How serious it is: only `FAIL` keeps SAGE from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    subject: str
    level: Level
    found: str
    try_: str | None = None


def all_findings() -> Iterator[Finding]:
    """Every finding, as soon as it is there; the endpoint, which may take seconds, comes last."""
    yield from (check() for check in MACHINE_CHECKS)
    yield from package_findings()
    try:
        configured = settings.load()
    except SageError as error:
        yield Finding("settings", Level.FAIL, str(error), "mend or remove what the message names")
        return
    yield data_folder(configured)
    yield embedding_model()
    yield endpoint(configured)


def python() -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()} in {sys.prefix}, SAGE {__version__}"
    return Finding("python", Level.OK, found)


def shared_memory() -> Finding:
    folder = "/dev/shm"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"SAGE")
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding("shared memory", Level.WARN, f"{folder}: {reason}", "one process works; several need it")
    found = f"{folder} is writable, {free_bytes >> 20:,} MB free"
    if free_bytes < SMALL_SHARED_MEMORY_BYTES:
        return Finding("shared memory", Level.WARN, found, "in a container: docker run --shm-size=1g")
    return Finding("shared memory", Level.OK, found)


def ports() -> Finding:
    try:
        bound = [port for port in (0, *LLM_PORTS) if _can_bind(port)]
    except OSError as error:
        return Finding("ports", Level.FAIL, f"127.0.0.1: {error.strerror}", "allow programs to listen on loopback")
    first, second = LLM_PORTS
    if first in bound and _under_wsl():
        found = (
            f"loopback works; this is WSL2, where {first} is often taken by Windows: use {second} for an LLM endpoint"
        )
        return Finding("ports", Level.OK, found)
    if first in bound:
        return Finding("ports", Level.OK, f"loopback works; {first} is free, for an LLM endpoint of your own")
    if second in bound:
        return Finding("ports", Level.OK, f"loopback works; {first} is taken, so use {second} for an LLM endpoint")
    return Finding("ports", Level.WARN, f"loopback works; {first} and {second} are both taken", "any other free port")


def clocks() -> Finding:
    resolution_s = time.get_clock_info("monotonic").resolution
    found = f"monotonic to {resolution_s * 1e9:,.0f} ns, wall {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
    if time.time() < FIRST_SANE_WALL_S:
        return Finding("clock", Level.WARN, found, "set the date of this machine")
    if resolution_s > 0.001:
        return Finding("clock", Level.WARN, found, "times below a millisecond will not be told apart")
    return Finding("clock", Level.OK, found)


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft:,} at once" if soft != resource.RLIM_INFINITY else "no limit"
    if 0 <= soft < FEW_FILES:
        return Finding("open files", Level.WARN, found, f"ulimit -n {hard if 0 <= hard < 65_536 else 65_536}")
    return Finding("open files", Level.OK, found)


def terminal() -> Finding:
    encoding = sys.stdout.encoding if sys.stdout is not None else "none"
    where = "terminal" if sys.stdout is not None and sys.stdout.isatty() else "not a terminal"
    found = f"{encoding}, {shutil.get_terminal_size().columns} columns, {where}"
    if encoding.lower().replace("-", "") != "utf8":
        return Finding("output", Level.WARN, found, "PYTHONUTF8=1, so that every text can be shown")
    return Finding("output", Level.OK, found)


MACHINE_CHECKS: Sequence[Callable[[], Finding]] = (python, shared_memory, ports, clocks, open_files, terminal)


def package_findings() -> Iterator[Finding]:
    """One finding for what SAGE always needs, and one for each extra."""
    try:
        required = packages.requires(DISTRIBUTION) or []
    except packages.PackageNotFoundError:
        yield Finding("packages", Level.WARN, "SAGE is not installed, it runs from its source", "pip install -e .")
        return
    groups: dict[str, list[str]] = {}
    for line in required:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", line)
        if name is not None and name.group() != DISTRIBUTION:
            groups.setdefault(extra.group(1) if extra else "", []).append(name.group())
    groups.pop("dev", None)
    for group, names in groups.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        found = ", ".join(f"{name} {version or 'MISSING'}" for name, version in versions.items())
        if not missing:
            yield Finding(f"extra {group}" if group else "packages", Level.OK, found)
        elif group:
            lacks = f"not installed: {', '.join(missing)}"  # nothing wrong: most pipelines need few extras
            yield Finding(f"extra {group}", Level.OK, lacks, f"pip install '{DISTRIBUTION}[{group}]', if you need it")
        else:
            yield Finding("packages", Level.FAIL, found, f"pip install --force-reinstall {DISTRIBUTION}")


def data_folder(configured: Settings) -> Finding:
    folder = configured.data_dir.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found = str(folder) + ("" if there == folder else " (will be made)")
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:
        refused = f"{shorten(found)}: {there} cannot be written to ({error.strerror})"
        return Finding("data folder", Level.FAIL, refused, "SAGE_DATA_DIR=PATH")
    return Finding("data folder", Level.OK, shorten(found))


def embedding_model() -> Finding:
    try:
        folder: Path = require_model()
    except SageError as error:
        level = Level.WARN if isinstance(error, PipelineError) else Level.FAIL
        return Finding("embedding model", level, f"{error.what} ({error.at})", error.try_)
    return Finding("embedding model", Level.OK, f"{MODEL_NAME} in {folder}")


def endpoint(configured: Settings) -> Finding:
    urls = (configured.gateway_url,) if configured.gateway_url else configured.llm_urls
    if not urls:
        return Finding(
            "LLM endpoint", Level.OK, "none is set; answers are quoted from the passages",
            f"SAGE_LLM_URL=http://127.0.0.1:{recommended_port()}, to have them written",
        )  # fmt: skip
    findings = [_endpoint(url, configured) for url in urls]
    return max(findings, key=lambda finding: finding.level is Level.FAIL)


def _endpoint(url: str, configured: Settings) -> Finding:
    secret = configured.gateway_key if configured.gateway_url else configured.llm_key
    key = "with a key (hidden)" if secret is not None else "without a key"
    key = f"the gateway, {key}" if configured.gateway_url else key
    client = ChatClient(
        url, secret, configured.llm_model,
        first_byte_timeout_s=ENDPOINT_PATIENCE_S, total_timeout_s=ENDPOINT_PATIENCE_S,
    )  # fmt: skip
    try:
        models = asyncio.run(_models(client))
    except SageError as error:
        found = f"{url}, {key}: {error.what}" + (f" ({error.got})" if error.got else "")
        return Finding("LLM endpoint", Level.FAIL, found, error.try_ or "start it, or mend SAGE_LLM_URL")
    listed = ", ".join(shorten(model, 60) for model in models[:5]) or "no list of models"
    return Finding("LLM endpoint", Level.OK, f"{url}, {key}, answers: {listed}")


def recommended_port() -> int:
    """For an LLM endpoint of one's own: 8001, or 8901 where 8001 is taken. Under WSL2 always 8901: programs of Windows
    take 8001 without it being seen from here."""
    first, second = LLM_PORTS
    return second if _under_wsl() or not _can_bind(first) else first


def _under_wsl() -> bool:
    return "microsoft" in platform.release().lower()


async def _models(client: ChatClient) -> tuple[str, ...]:
    async with client:
        return await client.check()


def _can_bind(port: int) -> bool:
    """Whether a server could listen there now. Raises OSError if not even any port will do."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError as error:
            if port and error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _version(name: str) -> str | None:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return None
