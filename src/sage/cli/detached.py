"""A process that goes on when the command that started it has ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from sage.cli.stderr import say
from sage.errors import HostError
from sage.processes import announced

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
        try:
            found, rest = announced(output.fileno(), timeout_s)
        except TimeoutError as error:
            raise HostError(
                "E823", f"{what} does not answer in {timeout_s:.0f} s", got=str(error) or "nothing"
            ) from error
    if rest:
        say(rest)
    if found is None:
        raise click.exceptions.Exit(process.wait(END_S))
    process.returncode = 0  # it goes on without us
    return found
