"""Everything that can go wrong with an endpoint, translated into SAGE's errors, in this one place.

====  ===============  =============================================================================================
code  class            what happened
====  ===============  =============================================================================================
E470  RecordError      the endpoint will not take this prompt (400, 413, 422), or it cannot be put in JSON
E471  RecordError      the prompt is too long for the model, or larger than 8 MB
E472  RecordError      a content filter refused the prompt or the answer
E701  EndpointError    the endpoint cannot be reached (only from `ChatClient.check`, before any record is read)
E703  EndpointRefused  it will refuse every request: wrong key (401, 403), no quota, unknown model or path (404, 405)
E704  EndpointRefused  it sends us elsewhere (3xx); SAGE does not follow, because the key would go along
E705  EndpointRefused  its TLS certificate is not trusted, or it does not speak TLS
E710  EndpointError    it failed (500, 502, 504 and every other status that is not named here)
E711  EndpointError    no connection within `connect_timeout_s`
E712  EndpointError    connected, and no byte of an answer within `first_byte_timeout_s`
E713  EndpointError    the answer stood still for `between_chunks_timeout_s`
E714  EndpointError    the answer was not complete within `total_timeout_s`
E715  EndpointError    it closed the connection before any byte of an answer (perhaps because of this very prompt)
E720  EndpointBusy     too many requests (429)
E721  EndpointBusy     overloaded or starting (503, 529)
E722  EndpointBusy     nothing accepts the connection: refused, unreachable, or its name cannot be looked up
E730  EndpointError    half an answer: closed in the middle, no finish_reason, or no ``[DONE]``
E731  EndpointError    not an answer in HTTP, or a compressed one (none was asked for)
E732  EndpointError    not UTF-8 or not JSON
E733  EndpointError    JSON of another shape than the OpenAI API has
E734  EndpointError    status 200 with an error inside
E735  EndpointError    larger than SAGE takes: 8 MB of text or JSON, 1 MB a line
====  ===============  =============================================================================================

No text of an endpoint gets into an error without the key being struck from it first.
"""

from __future__ import annotations

import email.utils
import math
import os
import ssl
import time
from collections.abc import Mapping, Sequence

import msgspec

from sage.errors import EndpointBusy, EndpointError, EndpointRefused, RecordError, SageError
from sage.llm.answer import ConnectTimeout, NotConnected, Patience, Phase
from sage.llm.wire import ErrorAnswer, HalfAnswer, Said, TooLarge, WireFault
from sage.settings import Secret

MAX_RETRY_AFTER_S = 300.0
MOST_LISTED = 8

_TIMEOUTS: dict[Phase, tuple[str, str]] = {
    "connect": ("E711", "the endpoint did not accept the connection in time"),
    "first_byte": ("E712", "the endpoint did not begin to answer in time"),
    "between_chunks": ("E713", "the endpoint stopped in the middle of an answer"),
    "total": ("E714", "the endpoint did not finish its answer in time"),
}
_KEY_TROUBLE = frozenset({401, 402, 403, 407})
_MISDIRECTED = frozenset({404, 405, 410, 501})
_PROMPT_TROUBLE = frozenset({400, 413, 414, 422, 431})
_NEVER_WORKS = frozenset({"invalid_api_key", "insufficient_quota", "model_not_found"})
_FILTERED = frozenset({"content_filter", "content_policy_violation"})
_TOO_LONG = ("context length", "context window", "context size", "maximum context", "too long", "too many tokens")


def foreign() -> tuple[type[Exception], ...]:
    """What a call to an endpoint can raise besides SAGE's own errors: exactly what `of_exception` translates."""
    import aiohttp

    return (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, UnicodeError, RecursionError, WireFault)


def of_exception(error: Exception, *, at: str, patience: Patience, key: Secret | None) -> EndpointError:
    """The error for one of `foreign`; `patience` knows how far the call had come."""
    text = _struck(str(error), key)
    return _of_protocol(error, at, text) or _of_transport(error, at, text, patience)


def _of_protocol(error: Exception, at: str, text: str) -> EndpointError | None:
    match error:
        case HalfAnswer():
            return EndpointError("E730", "the endpoint sent half an answer", at=at, got=text)
        case TooLarge():
            return EndpointError("E735", "the endpoint's answer is too large", at=at, got=text)
        case ErrorAnswer():
            return EndpointError("E734", "the endpoint answered 200 with an error inside", at=at, got=text)
        case WireFault():
            return EndpointError("E731", "the endpoint does not speak as expected", at=at, got=text)
        case msgspec.ValidationError() | RecursionError():
            return EndpointError("E733", "the endpoint's answer has another shape", at=at, got=text)
        case msgspec.MsgspecError() | UnicodeError():
            return EndpointError("E732", "the endpoint's answer is not JSON in UTF-8", at=at, got=text)
    return None


def _of_transport(error: Exception, at: str, text: str, patience: Patience) -> EndpointError:
    import aiohttp

    match error:
        case aiohttp.ConnectionTimeoutError() | ConnectTimeout():
            return _out_of_time("connect", at, patience)
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch() | ssl.SSLError():
            return EndpointRefused("E705", "the endpoint's TLS cannot be trusted", at=at, got=text)
        case TimeoutError():
            return _out_of_time(patience.phase(), at, patience)
        case aiohttp.ClientConnectorError() | NotConnected():
            return EndpointBusy("E722", "the endpoint does not accept connections", at=at, got=_reason(error, text))
        case aiohttp.ClientPayloadError():
            return EndpointError("E730", "the endpoint sent half an answer", at=at, got=text)
        case aiohttp.ClientConnectionError() | OSError() if patience.answered:
            return EndpointError("E730", "the endpoint closed the connection in its answer", at=at, got=text)
        case aiohttp.ClientConnectionError() | OSError():
            return EndpointError("E715", "the endpoint closed the connection before it answered", at=at, got=text)
    return EndpointError("E731", "the endpoint does not speak HTTP as expected", at=at, got=text)


def _reason(error: Exception, text: str) -> str:
    """The system's reason alone: the address is in the error already."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else text


def _out_of_time(phase: Phase, at: str, patience: Patience) -> EndpointError:
    code, what = _TIMEOUTS[phase]
    return EndpointError(code, what, at=at, expected=f"within {phase}_timeout_s = {patience.limit_s(phase):g}")


def of_status(status: int, headers: Mapping[str, str], said: Said, *, at: str, key: Secret | None) -> SageError:
    """The error for an answer whose status is not 200, which says `said`."""
    got = f"{status} {_struck(said.message, key)}".rstrip(" .")
    if said.code in _FILTERED:
        return RecordError("E472", "a content filter refused the prompt", at=at, got=got)
    if said.code in _NEVER_WORKS or status in _KEY_TROUBLE | _MISDIRECTED:
        return _refusal(status, said, at, got)
    if status in (429, 503, 529):
        code, what = ("E720", "too many requests") if status == 429 else ("E721", "the endpoint is overloaded")
        return EndpointBusy(code, what, at=at, got=got, retry_after_s=retry_after_s(headers))
    if status in _PROMPT_TROUBLE:
        if status == 413 or any(words in said.message.lower() for words in _TOO_LONG):
            return RecordError("E471", "the prompt is too long for the model", at=at, got=got)
        return RecordError("E470", "the endpoint will not take this prompt", at=at, got=got)
    if 300 <= status < 400:
        got = f"{status} to {_struck(headers.get('Location', ''), key)}"
        return EndpointRefused("E704", "the endpoint redirects", at=at, got=got, try_="its final address as llm_url")
    return EndpointError("E710", "the endpoint failed", at=at, got=got)


def _refusal(status: int, said: Said, at: str, got: str) -> EndpointRefused:
    what, try_ = "the endpoint does not know this model or path", "check llm_model and llm_url"
    if status in _KEY_TROUBLE or said.code == "invalid_api_key":
        what, try_ = "the endpoint does not accept the key", "check llm_key (SAGE_LLM_KEY)"
    elif said.code == "insufficient_quota":
        what, try_ = "the key has no quota left", "another key, or a larger quota"
    return EndpointRefused("E703", what, at=at, got=got, try_=try_)


def not_listed(refused: EndpointRefused, listed: Sequence[str]) -> EndpointRefused:
    """`refused`, of an endpoint that lists other models than the one that was asked for."""
    some = ", ".join(listed[:MOST_LISTED]) + (", ..." if len(listed) > MOST_LISTED else "")
    return EndpointRefused(
        refused.code, refused.what, at=refused.at, got=refused.got, expected=f"one of {some}", try_=refused.try_
    )


def no_model(at: str) -> EndpointRefused:
    """The error for a client that was given no model, of an endpoint that lists none."""
    return EndpointRefused("E703", "the endpoint lists no model to choose", at=at, try_="llm_model (SAGE_LLM_MODEL)")


def filtered(at: str) -> RecordError:
    """The error for an answer that a content filter cut off."""
    return RecordError("E472", "a content filter withheld the answer", at=at, got="finish_reason content_filter")


def of_request(error: Exception) -> RecordError:
    """The error for a prompt that cannot be put in JSON."""
    return RecordError("E470", "the prompt cannot be sent", got=str(error), expected="text that is valid Unicode")


def unreachable(error: EndpointError, at: str) -> EndpointError:
    """The error of a check that found nobody there."""
    return EndpointError(
        "E701", "the endpoint cannot be reached", at=at, got=error.got or error.what, try_="start it, or check llm_url"
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait that ``Retry-After`` asks for, at most 300 s; None if it is absent, negative or makes no sense.

    A date counts from the answer's own ``Date``, so that it does not matter whose clock is wrong.
    """
    text = headers.get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        until = _timestamp(text)
        if until is None:
            return None
        now = _timestamp(headers.get("Date", ""))
        seconds = until - (time.time() if now is None else now)
    return min(seconds, MAX_RETRY_AFTER_S) if seconds >= 0 and math.isfinite(seconds) else None


def _timestamp(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _struck(text: str, key: Secret | None) -> str:
    return text.replace(key.reveal(), "***") if key else text
