"""A disk that loses power: what a run did to its files, as strace saw it, and what would be left of it at any moment.

The worst that POSIX allows is left: of a file what it was at its last fsync, of a folder the names that it had at its
own. What was written behind that is gone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat", "write", "pwrite64", "ftruncate", "fallocate", "lseek", "fsync", "fdatasync", "rename", "unlink",
    "writev", "pwritev", "sendfile", "copy_file_range", "renameat", "renameat2", "unlinkat", "link", "linkat",
)  # fmt: skip
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*?)>)?")
_BEGUN = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_FILE = re.compile(r"(\d+)<((?:\\x..)*)>")
_TEXT = re.compile(r'"((?:\\x..)*)"')


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""


@dataclass(frozen=True)
class Call:
    """A call to the system that succeeded."""

    name: str
    path: str
    """Of its file; of a rename the old one."""
    target: str = ""
    number: int = 0
    """Of the file, in the process."""
    data: bytes = b""
    at: int = -1
    """Where it writes, or how long the file becomes; -1: where it stands."""
    flags: str = ""


def traced(script: str, folder: Path) -> list[Call]:
    """What a Python script does to the files of `folder`, where it runs."""
    log = folder.with_suffix(".strace")
    command = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-o", str(log), f"--trace={','.join(CALLS)}"]
    subprocess.run([*command, sys.executable, "-c", script], cwd=folder, check=True, capture_output=True)
    begun: dict[str, str] = {}
    calls = []
    for line in log.read_text().splitlines():
        if found := _BEGUN.fullmatch(line):
            begun[found[1]] = f"{found[1]} {found[2]}"
            continue
        whole = begun.pop(found[1]) + found[2] if (found := _RESUMED.fullmatch(line)) else line
        call = _call_of(whole, folder)
        if call is not None and Path(call.path).is_relative_to(folder):
            calls.append(call)
    return calls


def _call_of(line: str, folder: Path) -> Call | None:
    found = _WHOLE.match(line)
    if found is None or int(found[4]) < 0:
        return None
    name, arguments, result = found[2], found[3], int(found[4])
    texts = [_plain(text) for text in _TEXT.findall(arguments)]
    if name in ("rename", "unlink"):
        paths = [os.path.normpath(folder / os.fsdecode(text)) for text in texts]
        return Call(name, paths[0], target=paths[-1])
    if name == "openat":
        return Call(name, os.fsdecode(_plain(found[5])), number=result, flags=arguments.split(", ")[2])
    file = _FILE.match(arguments)
    if file is None:
        return None
    path, rest = os.fsdecode(_plain(file[2])), arguments.split(", ")
    match name:
        case "write":
            return Call(name, path, number=int(file[1]), data=texts[0][:result])
        case "pwrite64":
            return Call(name, path, data=texts[0][:result], at=int(rest[-1]))
        case "ftruncate":
            return Call(name, path, at=int(rest[1]))
        case "fallocate":
            return Call(name, path, at=int(rest[2]) + int(rest[3]))
        case "lseek":
            return Call(name, path, number=int(file[1]), at=result)
        case "fsync" | "fdatasync":
            return Call("fsync", path)
    raise AssertionError(f"a call that the disk does not know: {line[:200]}")


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class Disk:
    """Takes calls in their order; `left` is what a loss of power leaves."""

    def __init__(self) -> None:
        self._named: dict[str, _File] = {}
        self._safe: dict[str, _File] = {}
        self._offsets: dict[int, int] = {}

    def take(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._take(call)

    def _take(self, call: Call) -> None:
        match call.name:
            case "openat":
                self._open(call)
            case "write" | "pwrite64":
                self._write(call)
            case "ftruncate":
                file = self._named[call.path]
                file.now[call.at :] = bytes(max(0, call.at - len(file.now)))
            case "fallocate":
                file = self._named[call.path]
                file.now += bytes(max(0, call.at - len(file.now)))
            case "lseek":
                self._offsets[call.number] = call.at
            case "rename":
                self._named[call.target] = self._named.pop(call.path)
            case "unlink":
                self._named.pop(call.path)
            case "fsync" if call.path in self._named:
                self._named[call.path].safe = bytes(self._named[call.path].now)
            case "fsync":
                self._keep_names(call.path)

    def _open(self, call: Call) -> None:
        if "O_DIRECTORY" in call.flags or ("O_CREAT" not in call.flags and call.path not in self._named):
            return
        file = self._named.setdefault(call.path, _File())
        if "O_TRUNC" in call.flags:
            file.now.clear()
        self._offsets[call.number] = -1 if "O_APPEND" in call.flags else 0

    def _write(self, call: Call) -> None:
        file = self._named.get(call.path)
        if file is None:  # its name is gone
            return
        at = call.at
        if call.name == "write":
            at = self._offsets[call.number]
            if at < 0:
                at = len(file.now)
            else:
                self._offsets[call.number] = at + len(call.data)
        file.now += bytes(max(0, at - len(file.now)))
        file.now[at : at + len(call.data)] = call.data

    def _keep_names(self, folder: str) -> None:
        for names in (self._safe, self._named):
            for path in [path for path in names if os.path.dirname(path) == folder]:
                if path in self._named:
                    self._safe[path] = self._named[path]
                else:
                    del self._safe[path]

    def left(self) -> dict[str, bytes]:
        """By path."""
        return {path: file.safe for path, file in self._safe.items()}

    def written(self, path: str) -> bytes:
        """What is in a file while there is power."""
        return bytes(self._named[path].now) if path in self._named else b""
