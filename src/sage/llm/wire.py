"""What travels to an OpenAI-compatible endpoint and back: requests, answers, server-sent events, error bodies.

Bytes in, values out; no I/O. What the endpoint got wrong is raised as a `WireFault` or as one of msgspec's own decoding
errors, and becomes one of SAGE's errors in `sage.llm.faults`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

MAX_ANSWER_BYTES = 8 << 20
"""Of a whole JSON body, and of the text gathered from a stream."""
MAX_LINE_BYTES = 1 << 20
MAX_REQUEST_BYTES = 8 << 20

Message = Mapping[str, Any]
"""``{"role": "user", "content": "..."}``, as the OpenAI API has it."""


class WireFault(Exception):
    """The endpoint broke the protocol."""


class HalfAnswer(WireFault):
    """The answer stopped before its end."""


class TooLarge(WireFault):
    """The answer is larger than SAGE takes."""


class ErrorAnswer(WireFault):
    """Status 200, and an error inside."""


class Completion(msgspec.Struct, frozen=True):
    """One answer. Token counts are None where the endpoint does not tell."""

    text: str
    finish_reason: str
    """``stop``, or ``length`` where `max_tokens` cut the text off; other endpoints know others."""
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Part(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    """Of a stream (`delta`) or of a whole answer (`message`)."""

    index: int = 0
    delta: _Part | None = None
    message: _Part | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """One chunk of a stream, or a whole answer."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Said(msgspec.Struct, frozen=True):
    """What an error body says: OpenAI's form, vLLM's and FastAPI's are understood, anything else is taken as text."""

    message: str
    code: str = ""


_RUNNING = re.compile(rb"^vllm:num_requests_running(?:\{[^}\n]*\})? ([0-9.e+]+)\s*$", re.MULTILINE)
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}\n]*\})? ([0-9.e+]+)\s*$", re.MULTILINE)
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_models = msgspec.json.Decoder(_Models).decode


def chat_request(model: str, messages: Sequence[Message], options: Mapping[str, Any]) -> bytes:
    """The body of a chat completion, streamed unless `options` says otherwise; options that are None are left out.

    Raises TypeError, ValueError (UnicodeEncodeError included) or RecursionError if it cannot be put in JSON.
    """
    request: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    request |= {name: value for name, value in options.items() if value is not None}
    if request["stream"]:
        request.setdefault("stream_options", {"include_usage": True})
    return msgspec.json.encode(request)


def model_names(body: bytes) -> tuple[str, ...]:
    """The models of a ``/v1/models`` answer."""
    return tuple(model.id for model in _decode_models(body).data)


def vllm_load(body: bytes) -> tuple[float, float] | None:
    """Requests that run and that wait, from vLLM's ``/metrics``, all engines added up; None if it does not say."""
    running = [float(value) for value in _RUNNING.findall(body)]
    waiting = [float(value) for value in _WAITING.findall(body)]
    return (sum(running), sum(waiting)) if running and waiting else None


class Gathered:
    """An answer as it comes together, from the chunks of a stream or from one body."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._size = 0
        self._finish_reason: str | None = None
        self._usage = _Usage()
        self._model = ""

    def take(self, document: bytes) -> str:
        """Add one JSON document; returns the text that it added. Choices other than the first are ignored."""
        answer = _decode_answer(document)
        if answer.error is not None:
            raise ErrorAnswer(said(document).message)
        self._model = answer.model or self._model
        self._usage = answer.usage or self._usage
        return "".join([self._take_choice(choice) for choice in answer.choices if choice.index == 0])

    def _take_choice(self, choice: _Choice) -> str:
        part = choice.delta or choice.message
        text = (part and part.content) or ""
        if text:
            self._texts.append(text)
            self._size += len(text)
            if self._size > MAX_ANSWER_BYTES:
                raise TooLarge(f"more than {MAX_ANSWER_BYTES} characters")
        self._finish_reason = choice.finish_reason or self._finish_reason
        return text

    def completion(self) -> Completion:
        """The whole answer; raises `HalfAnswer` if the endpoint never said why it stopped."""
        if self._finish_reason is None:
            raise HalfAnswer(f"{self._size} characters and no finish_reason")
        usage = self._usage
        return Completion(
            "".join(self._texts), self._finish_reason, usage.prompt_tokens, usage.completion_tokens, self._model
        )


class Events:
    """Splits a stream of server-sent events into the documents on its ``data:`` lines.

    Endpoints put one JSON document on one line, so a line is an event; comments and other fields are skipped. A last
    line without its newline is not an event: it may be half of one.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The documents that `piece` completes. Raises `TooLarge` for a line over 1 MB."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise TooLarge(f"a line of more than {MAX_LINE_BYTES} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def said(body: bytes) -> Said:
    """What an error body says; never fails."""
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return Said(body.decode("utf-8", "replace").strip())
    if isinstance(document, dict):
        inner = document.get("error") or document
        if isinstance(inner, dict):
            message = inner.get("message") or inner.get("detail") or inner
            return Said(_as_text(message), _as_text(inner.get("code") or inner.get("type") or ""))
        return Said(_as_text(inner))
    return Said(_as_text(document))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
