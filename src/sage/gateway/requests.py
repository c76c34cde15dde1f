"""What the gateway looks at in the body of a request, and its limits. Everything else passes through untouched."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct

from sage.gateway.destinations import without_destinations
from sage.gateway.faults import Refusal

MAX_BODY_BYTES = 8 << 20
MAX_DEPTH = 64
MAX_DEADLINE_S = 3600.0
BYTES_PER_TOKEN = 4
USUAL_ANSWER_TOKENS = 256
PREFIX_BYTES = 1024
"""Prompts that share so much go to the same endpoint, whose cache may know it."""
FRAME_TOKENS = 16
"""What a chat template puts around a message or a prompt, at most."""

MEDIA_TOKENS = 16_384
"""Of an image or another part that is not text, at most, for models that are common now; its address has few bytes."""
_MEDIA = re.compile(rb'"(?:image|video|audio|file)_url"\s*:|"(?:input_audio|file)"\s*:')

Count = Annotated[int, Meta(ge=0, le=1 << 31)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
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


class _Route(NamedTuple):
    """Where it goes below the endpoint's base URL, what the interesting fields are called there, and its size."""

    path: str
    prompt_field: str
    longest_fields: tuple[Literal["max_tokens", "max_completion_tokens"], ...]
    """Those that are known there, the one to be set last."""
    prompts: int
    framed: int
    """Messages or prompts."""


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
    """As it came, but for `stream_options` where usage has to be asked for, the longest answer where it has to be
    bounded, and what `sage.gateway.destinations` drops."""
    stream: bool
    usage_wanted: bool
    """The client asked for the usage at the end of a stream."""
    prompt_tokens: float
    answer_tokens: float
    """Both estimated: for whose turn it is, never for what is written down."""
    most_tokens: int
    """More it cannot use, if the longest answer is bounded: no token is shorter than a byte."""
    prefix: str

    def estimate(self, answer_tokens: int) -> int:
        """What it used, where the endpoint does not say."""
        return math.ceil(self.prompt_tokens) + (answer_tokens if self.answer_tokens else 0)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a client says in headers about a request."""

    job: str
    step: str
    deadline_s: float | None
    """How long it is willing to wait for its turn."""
    reuse: bool
    """An answer that was given before will do."""


def chat(body: bytes, longest: int | None) -> Asked:
    """Of ``/v1/chat/completions``. `longest`, if given, bounds an answer whose length the request leaves open.
    Raises `Refusal`, as the others."""
    asked = _read(_decode_chat, body)
    route = _Route("/chat/completions", "messages", ("max_tokens", "max_completion_tokens"), 1, len(asked.messages))
    return _generation(route, asked, body, longest)


def completion(body: bytes, longest: int | None) -> Asked:
    """Of ``/v1/completions``."""
    asked = _read(_decode_text, body)
    prompts = 1
    if isinstance(asked.prompt, list) and not isinstance(asked.prompt[0], int):
        prompts = len(asked.prompt)
        if prompts > MAX_PROMPTS:
            raise Refusal(400, f"at most {MAX_PROMPTS} prompts in one request, not {prompts}", param="prompt")
    return _generation(_Route("/completions", "prompt", ("max_tokens",), prompts, prompts), asked, body, longest)


def embedding(body: bytes, _longest: int | None) -> Asked:
    """Of ``/v1/embeddings``, which have no answer that could be long."""
    asked = _read(_decode_embedding, body)
    inputs = len(asked.input) if isinstance(asked.input, list) and not isinstance(asked.input[0], int) else 1
    if inputs > MAX_INPUTS:
        raise Refusal(400, f"at most {MAX_INPUTS} inputs in one request, not {inputs}", param="input")
    most = len(body) + FRAME_TOKENS * inputs
    tokens = len(body) / BYTES_PER_TOKEN
    body = _checked(without_destinations, body)
    return Asked("/embeddings", asked.model, body, False, False, tokens, 0.0, most, "")


def unknown_model(model: str) -> Refusal:
    """Also for one that exists and is not for this key."""
    return Refusal(404, f"the model {model!r} does not exist", code="model_not_found", param="model")


def labels(headers: Mapping[str, str]) -> Labels:
    """Raises `Refusal` for names that cannot be written down and a deadline that is none."""
    names = []
    for header in ("X-SAGE-Job", "X-SAGE-Step"):
        name = headers.get(header, "")
        if name and not _NAME.fullmatch(name):
            raise Refusal(400, "1 to 128 printable ASCII characters without spaces are expected", param=header)
        names.append(name)
    return Labels(names[0], names[1], _deadline_s(headers.get("X-SAGE-Deadline")), _reuse(headers.get("X-SAGE-Cache")))


def _deadline_s(given: str | None) -> float | None:
    if given is None:
        return None
    seconds = float(given) if _SECONDS.fullmatch(given) else math.nan
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise Refusal(400, f"seconds from 0 to {MAX_DEADLINE_S:.0f} are expected", param="X-SAGE-Deadline")
    return seconds


def _reuse(given: str | None) -> bool:
    if given not in (None, "use"):
        raise Refusal(400, "use is expected, or no such header", param="X-SAGE-Cache")
    return given is not None


def _generation(route: _Route, asked: _Body, body: bytes, longest: int | None) -> Asked:
    fields = _decode_fields(body)
    changes = _usage_asked_for(asked, fields)
    limits = [limit for name in route.longest_fields if (limit := getattr(asked, name)) is not None]
    if longest is not None and not limits:
        changes[route.longest_fields[-1]] = Raw(b"%d" % longest)
        limits = [longest]
    if changes:
        body = msgspec.json.encode(fields | changes)
    prompt = bytes(fields[route.prompt_field])
    answers = max(asked.n or 1, asked.best_of or 1) * route.prompts
    longest_answers = max(limits, default=USUAL_ANSWER_TOKENS) * answers
    return Asked(
        route.path,
        asked.model,
        _checked(without_destinations, body),
        bool(asked.stream),
        usage_wanted=bool(asked.stream) and "stream_options" not in changes,
        prompt_tokens=len(prompt) / BYTES_PER_TOKEN,
        answer_tokens=float(longest_answers),
        most_tokens=len(body) + FRAME_TOKENS * (1 + route.framed) + MEDIA_TOKENS * _media(prompt) + longest_answers,
        prefix=prompt[:PREFIX_BYTES].decode("utf-8", "replace") if len(prompt) >= PREFIX_BYTES else "",
    )


def _media(prompt: bytes) -> int:
    """Parts that are not text, or a few more: in a text the quotes would be escaped."""
    return len(_MEDIA.findall(prompt))


def _usage_asked_for(asked: _Body, fields: dict[str, Raw]) -> dict[str, Raw]:
    """What has to change so that a stream ends with its usage; nothing where the client wants it itself."""
    options = asked.stream_options
    if not asked.stream or (options is not None and options.include_usage):
        return {}
    given = whole_document(bytes(fields["stream_options"])) if options is not None else {}
    return {"stream_options": Raw(msgspec.json.encode({**given, "include_usage": True}))}


def whole_document(body: bytes) -> Any:
    """All of it, where that is needed: the fields that nobody reads may still be no JSON. Raises `Refusal`."""
    return _checked(msgspec.json.decode, body)


def _read(decode: Any, body: bytes) -> Any:
    asked = _checked(decode, body)  # first: what is too long here is not walked through there
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(whole_document(body))
    return asked


def _checked(decode: Any, body: bytes) -> Any:
    try:
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
