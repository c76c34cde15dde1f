"""The command line as users have it: a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from patience import DEADLINE_S
from sage.cli.main import main

SAGE = (sys.executable, "-m", "sage")


def environment(**changes: str | None) -> dict[str, str]:
    """Ours without what would change SAGE's behaviour, and with `changes` (None removes a variable)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAGE_")}
    kept |= {"PYTHONWARNINGS": "error"}
    for name, value in changes.items():
        kept.pop(name, None)
        if value is not None:
            kept[name] = value
    return kept


def sage(*arguments: str | bytes, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``sage`` to its end; nothing is on its standard input."""
    done = subprocess.run(
        [*SAGE, *arguments], cwd=cwd, env=env or environment(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def sage_here(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The same in this process, for commands that end before they start anything: a hundredth of the time."""
    out, err = StringIO(), StringIO()
    replaced = mock.patch.dict(os.environ, env or environment(), clear=True)
    with replaced, chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


class Running:
    """``sage`` while it runs, read line by line."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [*SAGE, *arguments], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[str] = []

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for(self, text: str) -> None:
        """Read on until a line holds `text`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} did not come: {''.join(self.lines)}")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """The exit code, and all that was written."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        code = self.process.wait(DEADLINE_S)
        assert "Traceback" not in "".join(self.lines), "".join(self.lines)
        return code, "".join(self.lines)


def write_pipeline(folder: Path, body: Sequence[str], name: str = "flow.py") -> Path:
    """A Python file with the usual imports and the lines of `body`."""
    head = ["import sys, time, itertools", "import sage", "from sage.connectors import Items, JsonLines, Stdout", ""]
    path = folder / name
    path.write_text("\n".join([*head, *body]) + "\n")
    return path
