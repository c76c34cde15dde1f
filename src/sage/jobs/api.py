"""What clients may ask of the manager over HTTP: the routes, what they answer, and the OpenAPI document of both.

An error has one form: ``{"error": {"code", "text", "what", "at", "got", "expected", "try", "exit_code"}}``.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sage.errors import SageError, StorageError
from sage.jobs.admission import Place
from sage.jobs.figures import prometheus_of
from sage.jobs.folder import RunFolder, StateFolder, read_json
from sage.jobs.job import Job, check_id, check_in_flight, spec_of
from sage.jobs.log import MAX_WAIT_S, read_piece
from sage.jobs.manager import Manager
from sage.jobs.openapi import openapi
from sage.jobs.routes import Request, RequestError, Route
from sage.jobs.states import ACTIVE, ENDS, Command, State
from sage.version import __version__

MAX_OFFSET = 1 << 62
PROMETHEUS = "text/plain; version=0.0.4"

STATUS = {"E142": 400, "E143": 404, "E144": 409, "E145": 422, "E147": 409, "E148": 429, "E149": 409, "E601": 507}
"""The HTTP status of an error; another one of the caller's is 400, and one of the storage 500."""


class Api:
    """Answers requests from what the manager knows and what the jobs have written."""

    def __init__(self, manager: Manager, folder: StateFolder) -> None:
        self._manager = manager
        self._folder = folder
        self._started = time.monotonic()

    def status(self, request: Request) -> object:
        """About the manager itself."""
        jobs = self._manager.jobs()
        states = Counter(job.state for job in jobs)
        return {
            "pid": os.getpid(),
            "version": __version__,
            "folder": str(self._folder.path),
            "up_s": time.monotonic() - self._started,
            "max_running": self._manager.capacity.jobs,
            "capacity": asdict(self._manager.capacity),
            "running": sum(states[state] for state in ACTIVE),
            "jobs": {str(state): states[state] for state in State if states[state]},
        }

    def list(self, request: Request) -> object:
        """All jobs, in short."""
        queue, starts = self._manager.queue().queue, self._manager.forecast()
        jobs = self._manager.jobs()
        return {"jobs": [self._summary(job, queue.get(job.id), starts.get(job.id)) for job in jobs]}

    def submit(self, request: Request) -> object:
        """Take a job in. The body may have the ``id`` that it is to get: then it can be sent again without harm."""
        given = request.body
        job = given.pop("id", None) if isinstance(given, dict) else None
        if job is not None:
            check_id(job if isinstance(job, str) else repr(job))
        return self._in_full(self._manager.submit(spec_of(given), job))

    def show(self, request: Request) -> object:
        """All about one job."""
        return self._in_full(self._manager.job(request.job))

    def stop(self, request: Request) -> object:
        """Stop it cleanly; asked again, end it at once. What has ended stays as it is."""
        return self._in_full(self._manager.command(Command.STOP, request.job))

    def resume(self, request: Request) -> object:
        """Run it again."""
        return self._in_full(self._manager.command(Command.RESUME, request.job))

    def limit(self, request: Request) -> object:
        """Let it have so many records in flight from now on."""
        given = request.body
        if not isinstance(given, dict) or set(given) != {"max_in_flight"}:
            raise RequestError(400, "this is no limit of a job", expected='{"max_in_flight": NUMBER or null}')
        return self._in_full(self._manager.limit(request.job, check_in_flight(given["max_in_flight"])))

    def delete(self, request: Request) -> object:
        """Forget it, and remove its folder."""
        return self._summary(self._manager.command(Command.DELETE, request.job), None, None)

    def log(self, request: Request) -> object:
        """A piece of what it wrote."""
        offset = int(_number(request.query, "offset", MAX_OFFSET))
        wait_s = _number(request.query, "wait_s", MAX_WAIT_S)
        job = self._manager.job(request.job)
        log = self._folder.job(job.id).log
        return asdict(read_piece(log, offset, lambda: self._manager.job(job.id).state in ENDS, wait_s))

    def metrics(self, request: Request) -> object:
        """The figures of all jobs, as Prometheus reads them."""
        jobs = self._manager.jobs()
        found = [
            (job, _figures(job, self._folder.job(job.id).run(job.run)), self._manager.share(job.id)) for job in jobs
        ]
        return prometheus_of(found)

    def document(self, request: Request) -> object:
        """This description."""
        return openapi(ROUTES)

    def _summary(self, job: Job, place: Place | None, starts_in_s: float | None) -> dict[str, Any]:
        run = self._folder.job(job.id).run(job.run)
        figures = _figures(job, run) or {}
        account = figures.get("account", {})
        return {
            "id": job.id,
            "name": job.spec.name,
            "state": str(job.state),
            "reason": job.reason or (place.reason if place is not None else ""),
            "position": place.position if place is not None else None,
            "urgency": place.score if place is not None else None,
            "starts_in_s": starts_in_s if job.state is State.PENDING else None,
            "user": job.spec.user,
            "priority": job.spec.priority,
            "submitted_at": job.submitted_at,
            "run": job.run,
            "elapsed_s": figures.get("elapsed_s"),
            "read": account.get("read"),
            "written": account.get("written"),
            "dead_lettered": account.get("dead_lettered"),
            "stalled": figures.get("stalled"),
            "silent_s": figures.get("silent_s"),
        }

    def _in_full(self, job: Job) -> dict[str, Any]:
        folder = self._folder.job(job.id)
        run = folder.run(job.run)
        place = self._manager.queue().queue.get(job.id)
        return self._summary(job, place, self._manager.forecast().get(job.id)) | {
            "spec": asdict(job.spec),
            "max_in_flight": self._manager.share(job.id),
            "folder": str(run.path if job.run else folder.path),
            "log": str(folder.log),
            "process": job.supervisor.pid if job.supervisor is not None and job.state in ACTIVE else None,
            "changes": [asdict(change) for change in job.changes],
            "figures": _figures(job, run),
            "results": run.read_results(),
        }


def _figures(job: Job, run: RunFolder) -> dict[str, Any] | None:
    """The figures of the newest run: as they stand, or those of its end."""
    if job.state not in ACTIVE:
        return next((result for result in reversed(run.read_results()) if "account" in result), None)
    figures = read_json(run.figures)
    if figures is not None:
        figures["silent_s"] = max(0.0, time.monotonic() - figures.pop("at_s"))
    return figures


def _number(query: Mapping[str, str], name: str, most: float) -> float:
    text = query.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,19}(\.[0-9]{1,6})?", text) or float(text) > most:
        raise RequestError(400, "a parameter of the request is no such number", at=name, expected=f"0 to {most:g}")
    return float(text)


ROUTES = (
    Route("GET", "/v1/manager", "The manager and how many jobs it has", Api.status, "Manager"),
    Route("GET", "/v1/jobs", "All jobs, in short", Api.list, "JobList"),
    Route("POST", "/v1/jobs", "Submit a job", Api.submit, "Job", status=201, body="JobSpec"),
    Route("GET", "/v1/jobs/{id}", "All about a job", Api.show, "Job"),
    Route("DELETE", "/v1/jobs/{id}", "Delete a job that has ended or waits", Api.delete, "JobSummary"),
    Route("POST", "/v1/jobs/{id}/stop", "Stop it cleanly; again: at once", Api.stop, "Job"),
    Route("POST", "/v1/jobs/{id}/resume", "Run it again", Api.resume, "Job"),
    Route("POST", "/v1/jobs/{id}/limit", "Limit its records in flight, from now on", Api.limit, "Job", body="Limit"),
    Route("GET", "/v1/jobs/{id}/log", "A piece of its log", Api.log, "LogPiece", query=("offset", "wait_s")),
    Route(
        "GET",
        "/v1/metrics",
        "The figures of all jobs, as Prometheus reads them",
        Api.metrics,
        "Metrics",
        media=PROMETHEUS,
    ),
    Route("GET", "/v1/openapi.json", "This description", Api.document, "Document"),
)


def status_of(error: SageError) -> int:
    """The HTTP status of `error`."""
    if isinstance(error, RequestError):
        return error.status
    return STATUS.get(error.code, 500 if isinstance(error, StorageError) else 400)


def error_as_json(error: SageError) -> dict[str, Any]:
    """The one form of an error."""
    return {
        "error": {
            "code": error.code,
            "text": str(error),
            "what": error.what,
            "at": error.at,
            "got": error.got,
            "expected": error.expected,
            "try": error.try_,
            "exit_code": error.exit_code,
        }
    }
