"""What goes wrong with an output file, in the user's words; and what can be known before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sage.errors import SinkError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: str) -> None:
    """Raise `SinkError` if no file can be written at `path`. Touches nothing; folders are not made."""
    if not path or "\0" in path:
        raise SinkError("E551", "this is not a path", at="a file sink", got=repr(path), try_="output.jsonl")
    if not {"*", "?"}.isdisjoint(path):
        raise SinkError("E551", "an output is one file, not a pattern", at=path, try_="a path without * and ?")
    final = os.path.realpath(path)
    folder = os.path.dirname(final)
    if path.endswith(os.sep) or os.path.isdir(final):
        raise SinkError("E551", "this is a folder, not a file", at=path, try_=os.path.join(path, "output.jsonl"))
    if os.path.exists(final) and not os.path.isfile(final):
        raise SinkError("E551", "this is not a regular file", at=path, try_="Stdout() to write to a pipe")
    if not os.path.isdir(folder):
        raise SinkError("E550", "the folder of the output is not there", at=path, try_=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(path, folder)
    if os.path.exists(final) and not os.access(final, os.W_OK):
        raise SinkError("E551", "the output is there and is read-only", at=path, try_=f"chmod u+w {path}")


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn an `OSError` into a `SinkError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise sink_error(path, error) from error


def sink_error(path: str, error: OSError) -> SinkError:
    """`error`, raised while writing `path`, in the user's words."""
    folder = os.path.dirname(os.path.realpath(path))
    if error.errno in _FULL:
        return SinkError(
            "E552",
            "no space left for the output",
            at=path,
            got=error.strerror,
            try_=f"make room in {folder}, then run again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return _not_writable(path, folder)
    return SinkError("E556", "the output cannot be written", at=path, got=str(error))


def _not_writable(path: str, folder: str) -> SinkError:
    return SinkError(
        "E551", "the folder of the output cannot be written to", at=path, got=folder, try_="another folder"
    )
