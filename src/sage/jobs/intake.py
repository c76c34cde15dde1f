"""What a manager adds to a job that is submitted: for whom it runs, and what its file is now."""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import stat
from dataclasses import replace

from sage.errors import UsageError
from sage.jobs.job import JobSpec


def completed(spec: JobSpec) -> JobSpec:
    """With its user, and the checksum of its file. Raises `UsageError` E145 if that cannot be read."""
    try:
        if not stat.S_ISDIR(os.stat(spec.folder).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", spec.folder)
        if not stat.S_ISREG(os.stat(spec.file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", spec.file)
        with open(spec.file, "rb") as file:
            return replace(spec, sha256=hashlib.file_digest(file, "sha256").hexdigest(), user=spec.user or _this_user())
    except OSError as error:
        what = f"a path of the job cannot be used ({error.strerror})"
        raise UsageError("E145", what, at="file or folder", got=error.filename) from error


def _this_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # it has no name, as in some containers
        return str(os.geteuid())
