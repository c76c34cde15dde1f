"""The OpenAPI document of the job manager, made from its routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.jobs.job import BANDS, DEFAULT_BAND, ENGINES
from sage.jobs.routes import JSON, Route
from sage.jobs.states import State
from sage.version import __version__

_TEXT, _NUMBER, _COUNT, _FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_ID = {"type": "string", "pattern": "^[0-9a-f]{8}$"}
_OBJECT = {"type": "object"}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


_SUMMARY = {
    "id": _ID, "name": _TEXT, "state": {"type": "string", "enum": [str(state) for state in State]}, "reason": _TEXT,
    "position": _or_null(_COUNT), "urgency": _or_null(_NUMBER), "starts_in_s": _or_null(_NUMBER),
    "user": _TEXT, "priority": _COUNT,
    "submitted_at": _NUMBER, "run": _COUNT,
    "elapsed_s": _or_null(_NUMBER), "read": _or_null(_COUNT), "written": _or_null(_COUNT),
    "dead_lettered": _or_null(_COUNT), "stalled": _or_null(_TEXT), "silent_s": _or_null(_NUMBER),
}  # fmt: skip
_SPEC = {
    "file": _TEXT, "folder": _TEXT, "name": _TEXT, "arguments": {"type": "array", "items": _TEXT},
    "pipeline": _or_null(_TEXT), "engine": _or_null({"enum": list(ENGINES)}), "processes": _or_null(_COUNT),
    "address": _or_null(_TEXT), "hosts": _or_null(_COUNT), "scheduler": _or_null(_TEXT), "insecure_cluster": _FLAG,
    "reuse": _or_null(_TEXT), "restarts": _or_null(_COUNT), "first": _or_null(_COUNT),
    "discard_steps": {"type": "array", "items": _TEXT},
    "dead_letters": _or_null(_TEXT), "job_dir": _or_null(_TEXT), "max_dead_letters": _or_null(_COUNT), "append": _FLAG,
    "priority": {"type": "integer", "minimum": 0, "maximum": BANDS - 1, "default": DEFAULT_BAND},
    "start_delay_s": _NUMBER, "user": _TEXT, "weight": _NUMBER, "processors": _NUMBER, "memory_bytes": _COUNT,
    "places": _COUNT, "max_in_flight": _or_null(_COUNT), "shared_endpoints": _FLAG, "python": _TEXT,
}  # fmt: skip
_SCHEMAS = {
    "Manager": _object(
        {"pid": _COUNT, "version": _TEXT, "folder": _TEXT, "up_s": _NUMBER, "max_running": _COUNT, "running": _COUNT,
         "capacity": _OBJECT, "jobs": {"type": "object", "additionalProperties": _COUNT}}
    ),
    "JobSummary": _object(_SUMMARY),
    "JobList": _object({"jobs": {"type": "array", "items": {"$ref": "#/components/schemas/JobSummary"}}}),
    "Job": _object(
        _SUMMARY
        | {"spec": _object(_SPEC | {"sha256": _TEXT}), "max_in_flight": _or_null(_COUNT),
           "folder": _TEXT, "log": _TEXT, "process": _or_null(_COUNT),
           "changes": {"type": "array", "items": _OBJECT}, "figures": _or_null(_OBJECT),
           "results": {"type": "array", "items": _OBJECT}}
    ),
    "JobSpec": {
        "type": "object", "required": ["file", "folder"], "properties": _SPEC | {"id": _ID},
        "additionalProperties": False,
    },
    "Limit": {
        "type": "object", "required": ["max_in_flight"], "properties": {"max_in_flight": _or_null(_COUNT)},
        "additionalProperties": False,
    },
    "LogPiece": _object({"text": _TEXT, "next_offset": _COUNT, "ended": _FLAG}),
    "Metrics": _TEXT,
    "Document": _OBJECT,
    "Error": _object(
        {"error": _object({"code": _TEXT, "text": _TEXT, "what": _TEXT, "at": _or_null(_TEXT), "got": _or_null(_TEXT),
                           "expected": _or_null(_TEXT), "try": _or_null(_TEXT), "exit_code": _COUNT})}
    ),
}  # fmt: skip


def openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """The description of `routes`."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "SAGE job manager", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    parameters = [{"name": "id", "in": "path", "required": True, "schema": _ID}] if "{id}" in route.path else []
    parameters += [{"name": name, "in": "query", "required": False, "schema": _NUMBER} for name in route.query]
    operation: dict[str, Any] = {
        "operationId": route.handle.__name__,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {str(route.status): _content(route.answer, route.media), "default": _content("Error")},
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, **_content(route.body)}
    return operation


def _content(schema: str, media: str = JSON) -> dict[str, Any]:
    return {
        "description": schema,
        "content": {media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
