"""Files named on the command line: is there one, and if not, which was meant?"""

from __future__ import annotations

import difflib
import errno
import os
import stat

from sage.errors import UsageError, shorten


def check_file(path: str, kind: str, suffixes: tuple[str, ...], *, any_name: bool = False) -> None:
    """Raise `UsageError` if `path` is no regular file, or its name does not end in one of `suffixes`.

    `kind` says what is wanted. With `any_name` the suffixes only tell which files might have been meant.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _refused(path, error, suffixes) from error
    except ValueError as error:
        raise UsageError("E120", "this is not a path", at="FILE", got=repr(path)) from error
    if stat.S_ISDIR(mode):
        inside = _files_in(path, suffixes)
        try_ = os.path.join(path, inside[0]) if inside else None
        raise UsageError("E121", "this is a folder, not a file", at="FILE", got=path, try_=try_)
    if not stat.S_ISREG(mode):
        raise UsageError("E122", "this is not a regular file", at="FILE", got=path, expected=f"a {kind}")
    if not any_name and not path.endswith(suffixes):
        expected = f"a name that ends in {' or '.join(suffixes)}"
        raise UsageError(
            "E124", f"this is not a {kind}", at="FILE", got=path, expected=expected, try_=_near(path, suffixes)
        )


def read_file(path: str, kind: str, suffixes: tuple[str, ...]) -> bytes:
    """All of the file. Raises `UsageError` as `check_file` does, and if it may not be read."""
    check_file(path, kind, suffixes)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise _refused(path, error, suffixes) from error


def _refused(path: str, error: OSError, suffixes: tuple[str, ...]) -> UsageError:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        reason = (error.strerror or str(error)).lower()
        return UsageError("E123", f"the file cannot be read ({reason})", at="FILE", got=path)
    if os.path.islink(path):
        return UsageError("E120", "the link points to nothing", at="FILE", got=f"{path} -> {os.readlink(path)}")
    return UsageError("E120", "there is no such file", at="FILE", got=path or "nothing", try_=_near(path, suffixes))


def _near(path: str, suffixes: tuple[str, ...]) -> str | None:
    """A file with a similar name, or the only one of its kind in the folder."""
    folder, name = os.path.split(path)
    files = _files_in(folder or ".", suffixes)
    near = difflib.get_close_matches(name[:200], files, n=1) or (files if len(files) == 1 else [])
    return shorten(os.path.join(folder, near[0])) if near else None


def _files_in(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(suffixes) and not name.startswith("."))
    except OSError:
        return []
