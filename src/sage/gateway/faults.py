"""Everything that a client can be told went wrong, in OpenAI's form, in this one place.

What the client got wrong is 4xx. What the endpoints got wrong is 502 or 504, what is a matter of time 429 or 503 with a
``Retry-After``. The texts of SAGE's own errors stay in the gateway's log: they name endpoints.
"""

from __future__ import annotations

import math

import msgspec

from sage.errors import EndpointBusy, EndpointError, EndpointRefused, RecordError

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_TIMEOUTS = frozenset({"E711", "E712", "E713", "E714"})


class Refusal(Exception):
    """A request that gets no answer but an error. `code` is for programs, as OpenAI has them."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))

    @property
    def body(self) -> bytes:
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class ClientGone(Exception):
    """Nobody is there any more to be answered."""


def of_endpoints(error: EndpointError | RecordError, retry_after_s: float) -> Refusal:
    """For what the pool raised; `retry_after_s` is how long one would wait now."""
    match error:
        case RecordError():
            return Refusal(400, error.what, code="content_filter" if error.code == "E472" else f"endpoint_{error.code}")
        case EndpointBusy(code="E723"):
            return Refusal(429, "too many requests wait", code="queue_full", retry_after_s=retry_after_s)
        case EndpointBusy():
            message = "no endpoint had room within the time that the request may wait"
            return Refusal(503, message, code="no_room", retry_after_s=error.retry_after_s or retry_after_s)
        case EndpointRefused():
            return Refusal(502, "the endpoint refuses the gateway", code=f"endpoint_{error.code}")
        case EndpointError() if error.code in _TIMEOUTS:
            return Refusal(504, error.what, code=f"endpoint_{error.code}")
    return Refusal(502, error.what, code=f"endpoint_{error.code}")
