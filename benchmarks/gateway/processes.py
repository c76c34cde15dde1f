"""Endpoints and gateways as processes of their own, and what these use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sage.gateway import new_key

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Serving:
    """A server that runs; `url` ends in ``/v1``."""

    url: str
    pid: int

    @property
    def cpu_s(self) -> float:
        """Processor time so far, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def memory_mb(self) -> float:
        """Resident now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def server(command: Sequence[str]) -> Iterator[Serving]:
    """A program whose first line of output is its base URL."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, f"{command} did not start"
            yield Serving(url, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


def sage(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sage", *arguments]


def module(name: str, *arguments: str) -> list[str]:
    """A server of this package."""
    return [sys.executable, "-m", f"benchmarks.gateway.{name}", *arguments]


@contextmanager
def gateway(*endpoints: Serving, config: str = "") -> Iterator[Serving]:
    """One before `endpoints`, with a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gateway.toml")
        file.write_text(f'usage_file = "usage.sqlite"\n{config}')
        urls = [word for endpoint in endpoints for word in ("--endpoint", endpoint.url)]
        with server(sage("gateway", *urls, "--config", str(file), "--port", "0")) as running:
            yield running


def key(name: str, **settings: object) -> tuple[str, str]:
    """A key and its table for the configuration."""
    made, entry = new_key(name)
    lines = [
        f'name = "{name}"',
        f'sha256 = "{entry.sha256}"',
        *(f"{word} = {value}" for word, value in settings.items()),
    ]
    return made, "\n".join(["[[key]]", *lines, ""])
