"""What the gateway looks at in the body of a request, and its limits. Everything else passes through untouched."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from sage.gateway.faults import Refusal

MAX_BODY_BYTES = 8 << 20
MAX_DEPTH = 64
MAX_DEADLINE_S = 3600.0
BYTES_PER_TOKEN = 4
USUAL_ANSWER_TOKENS = 256
PREFIX_BYTES = 1024
"""Prompts that share so much go to the same endpoint, whose cache may know it."""
NOT_PASSED_ON = ("api_base", "base_url", "user_config", "extra_headers", "proxies")
"""Some servers let a request say where to send it next, and with which headers; the gateway does not."""

Count = Annotated[int, Meta(ge=0, le=1 << 31)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
_NAME = re.compile(r"[\x21-\x7e]{1,128}")


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Body(Struct):
    """The fields that are checked; of the rest the endpoint knows more."""

    model: Text
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=16)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=1024)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=64)] | None = None


class _Chat(_Body, kw_only=True):
    messages: Annotated[list[Raw], Meta(min_length=1, max_length=2048)]
    tools: Annotated[list[Raw], Meta(max_length=128)] | None = None


class _Text(_Body, kw_only=True):
    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]


class _Embedding(Struct):
    model: Text
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_text = msgspec.json.Decoder(_Text).decode
_decode_embedding = msgspec.json.Decoder(_Embedding).decode

MAX_PROMPTS = 64
MAX_INPUTS = 2048


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be sent on."""

    path: str
    """Below the endpoint's base URL."""
    model: str
    body: bytes
    """As it came, but for `stream_options` where usage has to be asked for, and `NOT_PASSED_ON`."""
    stream: bool
    usage_wanted: bool
    """The client asked for the usage at the end of a stream."""
    prompt_tokens: float
    answer_tokens: float
    """Both estimated: for whose turn it is, never for what is written down."""
    prefix: str


@dataclass(frozen=True, slots=True)
class Labels:
    """What a client says in headers about a request."""

    job: str
    step: str
    deadline_s: float | None
    """How long it is willing to wait for its turn."""


def chat(body: bytes) -> Asked:
    """Of ``/v1/chat/completions``. Raises `Refusal`, as the others."""
    asked = _checked(_decode_chat, body)
    return _generation("/chat/completions", asked, body, "messages", 1)


def completion(body: bytes) -> Asked:
    """Of ``/v1/completions``."""
    asked = _checked(_decode_text, body)
    prompts = 1
    if isinstance(asked.prompt, list) and not isinstance(asked.prompt[0], int):
        prompts = len(asked.prompt)
        if prompts > MAX_PROMPTS:
            raise Refusal(400, f"at most {MAX_PROMPTS} prompts in one request, not {prompts}", param="prompt")
    return _generation("/completions", asked, body, "prompt", prompts)


def embedding(body: bytes) -> Asked:
    """Of ``/v1/embeddings``."""
    asked = _checked(_decode_embedding, body)
    several = isinstance(asked.input, list) and not isinstance(asked.input[0], int)
    if several and len(asked.input) > MAX_INPUTS:
        raise Refusal(400, f"at most {MAX_INPUTS} inputs in one request, not {len(asked.input)}", param="input")
    sent = _sent(_fields(body), body)
    return Asked("/embeddings", asked.model, sent, False, False, len(body) / BYTES_PER_TOKEN, 0.0, "")


def labels(headers: Mapping[str, str]) -> Labels:
    """Raises `Refusal` for names that cannot be written down and a deadline that is none."""
    names = []
    for header in ("X-SAGE-Job", "X-SAGE-Step"):
        name = headers.get(header, "")
        if name and not _NAME.fullmatch(name):
            raise Refusal(400, "1 to 128 printable ASCII characters without spaces are expected", param=header)
        names.append(name)
    return Labels(names[0], names[1], _deadline_s(headers.get("X-SAGE-Deadline")))


def _deadline_s(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise Refusal(400, f"seconds from 0 to {MAX_DEADLINE_S:.0f} are expected", param="X-SAGE-Deadline")
    return seconds


def _generation(path: str, asked: _Body, body: bytes, prompt_field: str, prompts: int) -> Asked:
    fields = _fields(body)
    stream = bool(asked.stream)
    wanted = stream and asked.stream_options is not None and bool(asked.stream_options.include_usage)
    if stream and not wanted:
        options = msgspec.json.decode(fields["stream_options"]) if asked.stream_options is not None else {}
        fields["stream_options"] = Raw(msgspec.json.encode({**options, "include_usage": True}))
        body = msgspec.json.encode(fields)
    prompt = bytes(fields[prompt_field])
    answers = (asked.n or 1) * prompts
    longest = asked.max_completion_tokens or asked.max_tokens or USUAL_ANSWER_TOKENS
    prefix = prompt[:PREFIX_BYTES].decode("utf-8", "replace") if len(prompt) >= PREFIX_BYTES else ""
    sent = _sent(fields, body)
    tokens = len(prompt) / BYTES_PER_TOKEN
    return Asked(path, asked.model, sent, stream, wanted, tokens, float(longest * answers), prefix)


def _sent(fields: dict[str, Raw], body: bytes) -> bytes:
    if fields.keys().isdisjoint(NOT_PASSED_ON):
        return body
    return msgspec.json.encode({name: value for name, value in fields.items() if name not in NOT_PASSED_ON})


def _fields(body: bytes) -> dict[str, Raw]:
    """The top level, whose values stay the bytes that they are."""
    return _decode_fields(body)


def _checked(decode: Any, body: bytes) -> Any:
    try:
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
            _check_depth(msgspec.json.decode(body))
        return decode(body)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        raise Refusal(400, str(error), param=place.strip(".`") or _missing(what)) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None


def _missing(what: str) -> str | None:
    found = re.search("required field `(.+)`", what)
    return found and found[1]


def _check_depth(document: object) -> None:
    """Level by level, so that depth costs no stack."""
    level: list[object] = [document]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
        if not below:
            return
        level = below
    raise _too_deep()


def _too_deep() -> Refusal:
    return Refusal(400, f"the body is nested too deep: at most {MAX_DEPTH} levels")
