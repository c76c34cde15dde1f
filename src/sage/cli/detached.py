"""A process that goes on when the command that started it has ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from sage.cli.stderr import say
from sage.errors import HostError

END_S = 30.0


def start_detached(what: str, arguments: Sequence[str], timeout_s: float) -> Mapping[str, Any]:
    """Start ``sage ARGUMENTS`` in a session of its own; the line of JSON that it begins with.

    What else it says is passed on, and its exit code is ours. Raises `HostError` E823 if it says nothing.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sage", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        told = _told(what, output.fileno(), timeout_s)
    try:
        found: Mapping[str, Any] = json.loads(told)
    except ValueError:
        say(told.strip())
        raise click.exceptions.Exit(process.wait(END_S)) from None
    process.returncode = 0  # it goes on without us
    return found


def _told(what: str, fd: int, timeout_s: float) -> str:
    """One line of JSON, or all that comes before the other side has closed it."""
    until = time.monotonic() + timeout_s
    told = b""
    while select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(fd, 65_536)
        told += piece
        if not piece or (told.startswith(b"{") and told.endswith(b"\n")):
            return told.decode("utf-8", "replace")
    raise HostError("E823", f"{what} does not answer", got=f"nothing in {timeout_s:.0f} s")
