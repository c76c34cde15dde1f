"""The user's own files on their way to machines that do not have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from sage.errors import PipelineError

LARGEST_BYTES = 64 << 20
"""Of a project. What is larger belongs on a disk that all machines see, or in the operators themselves."""
NOT_SENT = frozenset({"venv", "env", "node_modules", "__pycache__", "site-packages"})
"""Folders that are not part of a project, beside hidden ones."""


def runtime_environment() -> dict[str, Any]:
    """What Ray brings to every node before it starts a host there: the folder of the program that runs.

    Nothing, where there is no program, or it lies in a folder of all kinds of things. Raises E227 if it is too large.
    """
    program = getattr(sys.modules["__main__"], "__file__", None)
    if program is None:
        return {}
    folder = Path(program).resolve().parent
    if folder in {Path.home(), Path("/"), Path("/tmp")} or "site-packages" in folder.parts:
        return {}
    sizes = dict(_files(folder))
    if sum(sizes.values()) > LARGEST_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise PipelineError(
            "E227", "the folder of the program is too large to be sent to other machines", at=str(folder),
            got=f"{sum(sizes.values()) >> 20:,} MB, {largest.relative_to(folder)} of them {sizes[largest] >> 20:,}",
            expected=f"at most {LARGEST_BYTES >> 20} MB", try_="a folder of its own for the program",
        )  # fmt: skip
    return {"working_dir": str(folder), "excludes": [*(f"{name}/" for name in sorted(NOT_SENT)), ".[a-zA-Z0-9]*"]}


def _files(folder: Path) -> list[tuple[Path, int]]:
    """Everything that is sent, with its size; reading stops where it is too much already."""
    found: list[tuple[Path, int]] = []
    total = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_SENT and not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                found.append((path, path.stat().st_size))
                total += found[-1][1]
        if total > 4 * LARGEST_BYTES:
            break
    return found
