"""Python run where a folder is a small or read-only file system of its own, which also root cannot overcome."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patience import DEADLINE_S

SOURCE = Path(__file__).parents[2] / "src"


def python_on_tmpfs(script: str, folder: Path, *, options: str) -> str:
    """What `script` prints where `folder` is a tmpfs with `options`, which nobody else sees; skips if not root."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root and namespaces")
    shell = f'mount -t tmpfs -o {options} tmpfs "$1" && cd "$1" && exec "$2" -c "$3"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-ec", shell, "sh", str(folder), sys.executable, script],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]},
    )
    if result.returncode == 32:  # of mount
        pytest.skip(f"cannot mount here: {result.stderr}")
    assert result.returncode == 0, result.stderr
    return result.stdout
