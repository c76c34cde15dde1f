"""What a request is, and which route it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.errors import UsageError
from sage.jobs.job import check_id

JSON = "application/json"


class RequestError(UsageError):
    """A request that cannot be answered as it stands: `status` says why in HTTP's words."""

    def __init__(self, status: int, what: str, *, at: str | None = None, expected: str | None = None) -> None:
        super().__init__("E146", what, at=at, expected=expected)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was let in."""

    job: str
    """The id in the path, checked; empty where the path has none."""
    query: Mapping[str, str]
    body: object
    """The decoded JSON; None without a body."""


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked."""

    method: str
    path: str
    summary: str
    handle: Callable[[Any, Request], object]
    """A method of `sage.jobs.api.Api`."""
    answer: str
    """The schema of the answer."""
    status: int = 200
    body: str | None = None
    query: tuple[str, ...] = ()
    media: str = JSON
    """The type of the answer."""


def route_of(routes: Sequence[Route], method: str, path: str) -> tuple[Route, str]:
    """The route, and the id in the path. Raises `RequestError` 404 or 405, and E142 for an id that is none."""
    allowed = []
    for route in routes:
        match = re.fullmatch(re.escape(route.path).replace(r"\{id\}", "([^/]+)"), path)
        if match and route.method == method:
            return route, check_id(match[1]) if match.groups() else ""
        if match:
            allowed.append(route.method)
    if allowed:
        raise RequestError(405, "this cannot be done here", at=path, expected=" or ".join(allowed))
    raise RequestError(404, "there is nothing here", at=path, expected="a path of /v1/openapi.json")


def decoded(body: bytes) -> object:
    """The JSON in `body`; None for an empty one. Raises `RequestError` 400."""
    if not body:
        return None
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body is not JSON", expected="a JSON object in UTF-8") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
