"""Asks the job manager of a state folder, over its socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from sage.errors import HostError, InternalError, PipelineError, SageError, StorageError, UsageError
from sage.jobs.folder import StateFolder
from sage.jobs.job import check_id, new_id
from sage.jobs.log import MAX_WAIT_S

PATIENCE_S = 60.0
_CLASSES: Mapping[str, type[SageError]] = {"E1": UsageError, "E2": PipelineError, "E6": StorageError, "E8": HostError}


class Client:
    """One method for each thing that can be asked; each is one request.

    Raises what the manager answers, and `UsageError` E140 if none answers there.
    """

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder

    def status(self) -> dict[str, Any]:
        """About the manager."""
        return self._ask("GET", "/v1/manager")

    def list(self) -> list[dict[str, Any]]:
        """All jobs, in short."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/jobs")["jobs"]
        return found

    def submit(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a job: `spec` has the fields of a `JobSpec`."""
        return self._ask("POST", "/v1/jobs", {"id": new_id(), **spec})

    def show(self, job: str) -> dict[str, Any]:
        """All about a job."""
        return self._ask("GET", _path(job))

    def stop(self, job: str) -> dict[str, Any]:
        """Stop a job cleanly; again: at once."""
        return self._ask("POST", _path(job, "/stop"))

    def resume(self, job: str) -> dict[str, Any]:
        """Run a job again."""
        return self._ask("POST", _path(job, "/resume"))

    def limit(self, job: str, max_in_flight: int | None) -> dict[str, Any]:
        """Let a job have so many records in flight from now on; None: no limit of its own."""
        return self._ask("POST", _path(job, "/limit"), {"max_in_flight": max_in_flight})

    def delete(self, job: str) -> dict[str, Any]:
        """Delete a job."""
        return self._ask("DELETE", _path(job))

    def log(self, job: str, *, follow: bool = False) -> Iterator[str]:
        """What a job wrote, piece by piece; with `follow`, until it has ended."""
        offset = 0
        while True:
            query = urlencode({"offset": offset, "wait_s": MAX_WAIT_S if follow else 0})
            piece = self._ask("GET", f"{_path(job, '/log')}?{query}")
            yield piece["text"]
            if piece["ended"] or not (follow or piece["text"]):
                return
            offset = piece["next_offset"]

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        self._folder.check()
        connection = _Connection(self._folder)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise UsageError(
                "E140", "no job manager runs", at=str(self._folder.path), try_="sage jobmanager start"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = "the job manager does not answer"
            raise UsageError(
                "E140", what, at=str(self._folder.path), got=error, try_="sage jobmanager status"
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _error(answer["error"])
        return answer


class _Connection(http.client.HTTPConnection):
    def __init__(self, folder: StateFolder) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._folder = folder

    def connect(self) -> None:
        directory = os.open(self._folder.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(PATIENCE_S)
            self.sock.connect(f"/proc/self/fd/{directory}/{self._folder.socket.name}")  # of any length, this way
        finally:
            os.close(directory)


def _path(job: str, what: str = "") -> str:
    return f"/v1/jobs/{quote(check_id(job))}{what}"


def _error(given: Mapping[str, Any]) -> SageError:
    cls = _CLASSES.get(given["code"][:2], InternalError)
    return cls(
        given["code"], given["what"], at=given["at"], got=given["got"], expected=given["expected"], try_=given["try"]
    )  # fmt: skip
