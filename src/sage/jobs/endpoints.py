"""The endpoints that jobs share: one gateway before them, on this machine.

Jobs run in processes of their own. If each asked an endpoint directly, each would look for a limit of its own, and they
would take it from one another. So the first job whose settings name endpoints (`llm_url`) has a gateway started for
these endpoints, and all jobs that name the same ask it: shares go by weight and priority, tokens are counted by job.
The gateway is nobody's child. It ends when neither a manager nor a supervisor of the state folder is left, which it
learns from a lock that they all hold in common. A key is good for one job, as long as its file is there.

::

    DATA_DIR/jobs/gateways/
        users               the lock
        NAME/               one gateway; the name is made of the endpoints and their key
            starting        held by who starts it
            note.json       the process, its address, and the folder with the settings that it was started with
            keys/           a file for each job
            log
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from sage import settings
from sage.errors import HostError, SageError
from sage.jobs.folder import StateFolder, read_json, storing, touch, write_json
from sage.jobs.job import DEFAULT_BAND
from sage.jobs.outcome import last_line
from sage.private import opener
from sage.processes import Process, announced
from sage.settings import Settings

START_TIMEOUT_S = 60.0
KEY_NAME = "job-"


class Gateways:
    """Those of one state folder."""

    def __init__(self, state: StateFolder) -> None:
        self.path = state.path / "gateways"
        self.users = self.path / "users"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, they do not end. Waits for one that is just ending."""
        with storing(self.path):
            self.path.mkdir(mode=0o700, exist_ok=True)
            touch(self.users)
        fd = os.open(self.users, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def unused(self) -> Iterator[bool]:
        """Inside: whether neither a manager, a job nor a gateway was there, and none comes."""
        try:
            fd = os.open(self.users, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            yield True
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield all(gateway.process() is None for gateway in self.all())
        except BlockingIOError:
            yield False
        finally:
            os.close(fd)

    def of(self, found: Settings) -> GatewayFolder:
        """That of the endpoints in `found`."""
        key = found.llm_key.reveal() if found.llm_key is not None else None
        name = hashlib.sha256(json.dumps([sorted(found.llm_urls), key]).encode()).hexdigest()[:16]
        return GatewayFolder(self.path / name)

    def all(self) -> list[GatewayFolder]:
        """Those that were ever started."""
        with suppress(FileNotFoundError):
            return [GatewayFolder(Path(entry.path)) for entry in os.scandir(self.path) if entry.is_dir()]
        return []


class GatewayFolder:
    """The files of one gateway."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starting = path / "starting"
        self.note = path / "note.json"
        self.keys = path / "keys"
        self.log = path / "log"

    def process(self) -> Process | None:
        """The gateway, if it lives."""
        note = read_json(self.note)
        found = Process(**note["process"]) if note is not None else None
        return found if found is not None and found.is_alive else None

    def started(self, cwd: str | None = None) -> str:
        """Its address; started with the settings of `cwd`, or those of the last time, if it is not there.

        Raises `HostError` E823 if it does not come, `StorageError` if its folder cannot be used.
        """
        with storing(self.path):
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.keys.mkdir(mode=0o700, exist_ok=True)
            touch(self.starting)
        fd = os.open(self.starting, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            note: Mapping[str, Any] = read_json(self.note) or {}
            if self.process() is None:
                note = self._start(cwd or note["folder"])
            url: str = note["url"]
            return url
        finally:
            os.close(fd)

    def jobs(self) -> dict[Path, str]:
        """By file of a key: the job that it was made for."""
        found = {path: read_json(path) for path in sorted(self.keys.glob("*"))}
        return {path: entry["name"].removeprefix(KEY_NAME) for path, entry in found.items() if entry is not None}

    @contextmanager
    def key_of(self, job: str, spec: Mapping[str, Any]) -> Iterator[str]:
        """A key for one job; it opens nothing any more afterwards."""
        key = f"sage-job-{secrets.token_urlsafe(32)}"
        sha256 = hashlib.sha256(key.encode()).hexdigest()
        entry = {
            "name": f"{KEY_NAME}{job}",
            "sha256": sha256,
            "weight": spec.get("weight", 1.0),
            "priority": DEFAULT_BAND - spec.get("priority", DEFAULT_BAND),
            "max_requests": 1024,
        }
        write_json(self.keys / sha256, entry, durable=False)
        try:
            yield key
        finally:
            (self.keys / sha256).unlink(missing_ok=True)

    def _start(self, cwd: str) -> Mapping[str, Any]:
        with open(self.log, "ab", opener=opener) as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sage.cli.job_gateway", str(self.path)],
                cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as output:
            found = None
            with suppress(TimeoutError):
                found, _ = announced(output.fileno(), START_TIMEOUT_S)
        process.wait()  # it goes on in a child of its own
        if found is None:
            raise HostError("E823", "the gateway of the jobs does not start", at=str(self.log), got=last_line(self.log))
        return found


@contextmanager
def shared(state: StateFolder, job: str, spec: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    """Inside, the settings by which `job` asks its endpoints through the gateway. None where it names no endpoints or
    a gateway of its own; nor where none can be started, which is told on standard error: then it asks directly."""
    gateways = Gateways(state)
    with gateways.in_use():
        found = _settings_of(spec["folder"])
        if not spec.get("shared_endpoints", True) or found is None or found.gateway_url or not found.llm_urls:
            yield {}
            return
        gateway = gateways.of(found)
        try:
            url = gateway.started(spec["folder"])
        except (SageError, OSError) as error:
            sys.stderr.write(f"the endpoints are asked directly: {error}\n")
            yield {}
            return
        with gateway.key_of(job, spec) as key:
            yield {"SAGE_GATEWAY_URL": url, "SAGE_GATEWAY_KEY": key}


def _settings_of(folder: str) -> Settings | None:
    """Those that a job will have; None where they are wrong, which the job says better."""
    try:
        with chdir(folder):
            return settings.load()
    except (SageError, OSError):
        return None
