"""What is said to the user: standard error, whether or not somebody reads it."""

from __future__ import annotations

import sys
from contextlib import suppress


def say(text: str, *, end: str = "\n") -> None:
    """Write `text`, with what UTF-8 cannot hold escaped. That nobody reads it is no error: the exit code tells."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text.encode("utf-8", "backslashreplace").decode() + end)
            sys.stderr.flush()
