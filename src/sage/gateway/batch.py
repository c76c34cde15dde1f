"""What a batch is, in OpenAI's form: a file of requests, and where it stands. Data only."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from sage.gateway import requests
from sage.gateway.faults import Refusal
from sage.gateway.requests import Asked

READERS: dict[str, Callable[[bytes, int | None], Asked]] = {
    "/v1/chat/completions": requests.chat,
    "/v1/completions": requests.completion,
    "/v1/embeddings": requests.embedding,
}
BAND = -100
"""Below every key's priority."""
MAX_REQUESTS = 50_000
MAX_LINE_BYTES = 1 << 20
MAX_ERRORS = 20
"""That a batch that cannot be run says of its file."""
MAX_WINDOW_S = 30 * 86_400
_WINDOW = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ID = re.compile(r"(?:file-|batch_)[0-9a-f]{24}")

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
Name = Annotated[str, Meta(min_length=1, max_length=512)]


class FileCard(Struct):
    """A file as it is kept. `tenant` is who may see it."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created_at: int

    def public(self) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.to_builtins(self)
        del shown["tenant"]
        return {"object": "file", "status": "processed", **shown}


class LineError(Struct):
    """What is wrong with a line of a file."""

    code: str
    message: str
    line: int
    param: str | None = None


class Counts(Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Struct):
    """Where one stands. `key`, `job` and `step` are whose tokens these are."""

    id: str
    tenant: str
    key: str
    job: str
    step: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    status: Status = "validating"
    errors: list[LineError] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: Counts = msgspec.field(default_factory=Counts)
    metadata: dict[str, str] | None = None
    times: dict[str, int] = {}
    """When it came into each of its states."""

    def enter(self, status: Status, now_s: float) -> None:
        self.status = status
        self.times[status] = int(now_s)

    def public(self) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.to_builtins(self)
        for name in ("tenant", "key", "job", "step", "times"):
            del shown[name]
        shown["errors"] = {"object": "list", "data": shown["errors"]} if self.errors else None
        times = {f"{status}_at": self.times.get(status) for status in sorted({*ENDED, "finalizing", "cancelling"})}
        return {"object": "batch", "in_progress_at": self.times.get("in_progress"), **times, **shown}


class Line(Struct):
    """One request of a file."""

    custom_id: Name
    url: str
    body: msgspec.Raw
    method: Literal["POST"] = "POST"


class Asks(Struct):
    """The body of ``POST /v1/batches``."""

    input_file_id: Annotated[str, Meta(max_length=64)]
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], Name], Meta(max_length=16)] | None = None


class Response(Struct):
    """An endpoint's answer; its body stays the JSON that it is."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class Result(Struct, omit_defaults=False):
    """What became of one request, as a line of the output or of the file of errors."""

    id: str
    custom_id: str
    response: Response | None = None
    error: dict[str, str] | None = None

    @property
    def good(self) -> bool:
        return self.response is not None and self.response.status_code == 200


read_line = msgspec.json.Decoder(Line).decode
read_asks = msgspec.json.Decoder(Asks).decode
read_result = msgspec.json.Decoder(Result).decode


def new_id(kind: str) -> str:
    return f"{kind}{secrets.token_hex(12)}"


def is_id(name: str) -> bool:
    """So that it may be the name of a file."""
    return _ID.fullmatch(name) is not None


def window_s(said: str) -> int:
    """Of a completion window: OpenAI's ``24h``, or another number of s, m, h or d. Raises `Refusal`."""
    found = _WINDOW.fullmatch(said)
    seconds = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        raise Refusal(400, "24h is expected, or another time up to 30d", param="completion_window")
    return seconds


def ended(line: Line | str, status_code: int, body: bytes) -> Result:
    """It was answered, if perhaps by an error."""
    response = Response(status_code, new_id("req_"), _on_one_line(body))
    return Result(new_id("batch_req_"), line if isinstance(line, str) else line.custom_id, response)


def _on_one_line(body: bytes) -> msgspec.Raw:
    """JSON as it came but for its spaces; anything else as a text."""
    try:
        msgspec.json.decode(body)
        return msgspec.Raw(msgspec.json.format(body, indent=-1))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(body.decode("utf-8", "replace")))


def never_sent(custom_id: str, code: str, message: str) -> Result:
    return Result(new_id("batch_req_"), custom_id, None, {"code": code, "message": message})
