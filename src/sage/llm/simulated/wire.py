"""Requests as they come: OpenAI's fields that the simulated server understands, with their limits.

Fields that are not listed are taken and ignored, as vLLM does with most. What is wrong is a `Refusal`: the status and
body of the answer, in OpenAI's form.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

MAX_BODY_BYTES = 8 << 20
MAX_SEQUENCES = 64
"""Prompts of one request, times `n`."""

T = TypeVar("T", bound=Struct)
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Stop = str | Annotated[list[str], Meta(max_length=16)]
Token = Annotated[int, Meta(ge=0, lt=1 << 32)]
Input = str | list[str | Token | list[Token]]
"""A text, texts, the tokens of one, or those of several."""


class Refusal(Exception):
    """An answer with an error."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind, param, code)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


class Part(Struct):
    """Of a message. Only text counts; pictures and sounds are taken and ignored."""

    type: str
    text: str | None = None


class Message(Struct):
    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str | list[Part] | None = None
    tool_calls: Any = None

    def text(self) -> str:
        said = self.content if isinstance(self.content, str) else "".join(p.text or "" for p in self.content or ())
        return said if self.tool_calls is None else said + json.dumps(self.tool_calls)


class Function(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    function: Function
    type: Literal["function"] = "function"


class NamedFunction(Struct):
    name: str


class NamedTool(Struct):
    function: NamedFunction
    type: Literal["function"] = "function"


class JsonSchema(Struct):
    schema: dict[str, Any] | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct):
    include_usage: bool | None = None


class Sampling(Struct, kw_only=True):
    """What chat and completions have in common."""

    model: str | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=1024)] | None = None
    seed: int | None = None
    response_format: ResponseFormat | None = None
    ignore_eos: bool = False
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Sampling, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=2048)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None

    def called(self) -> Function | None:
        """The tool to call: the named one, or the first where one is required or the prompt ends with the user's turn;
        after a tool's answer there is text."""
        if not self.tools or self.tool_choice == "none":
            if isinstance(self.tool_choice, NamedTool) or self.tool_choice == "required":
                raise Refusal(400, "tool_choice needs tools", param="tool_choice")
            return None
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            for tool in self.tools:
                if tool.function.name == name:
                    return tool.function
            raise Refusal(400, f"tool_choice names a tool {name!r} that is not among the tools", param="tool_choice")
        if self.tool_choice == "required" or self.messages[-1].role != "tool":
            return self.tools[0].function
        return None

    def prompt(self) -> list[str]:
        """Its parts, as the model would get them."""
        parts = [msgspec.json.encode(self.tools).decode()] if self.tools else []
        for message in self.messages:
            parts += (f"<|{message.role}|>", message.text())
        return [*parts, "<|assistant|>"]


class CompletionRequest(Sampling, kw_only=True):
    prompt: Input
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None


class EmbeddingRequest(Struct):
    input: Input
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=4096)] | None = None


class TokenizeRequest(Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


def decode(kind: type[T], body: bytes) -> T:
    """Raises `Refusal` (400), which names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `")
        param = path.strip("`$.") or None
        raise Refusal(400, f"{what} at {param}" if param else what, param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON that can be used: {error}") from error


def texts(given: Input, limit: int, param: str) -> list[str]:
    """As texts; a token stands for 4 bytes. Raises `Refusal` where there is none, too many, or several kinds."""
    if isinstance(given, str):
        return [given]
    strings = [one for one in given if isinstance(one, str)]
    single = [one for one in given if isinstance(one, int)]
    several = [one for one in given if isinstance(one, list)]
    if not given or len(given) not in (len(strings), len(single), len(several)):
        raise Refusal(400, f"{param} is empty, or not all of one kind", param=param)
    found = strings or [_text_of(tokens) for tokens in several or [single]]
    if len(found) > limit:
        raise Refusal(400, f"{param} has {len(found)} entries, and at most {limit} are taken", param=param)
    return found


def _text_of(tokens: list[int]) -> str:
    return "".join(f"{token & 0xFFFF:04x}" for token in tokens)


class FaultsChange(Struct, forbid_unknown_fields=True):
    """Of the admin route; as are the next two."""

    faults: Annotated[list[str], Meta(max_length=64)]


class CapacityChange(Struct, forbid_unknown_fields=True):
    factor: Annotated[float, Meta(gt=0, le=1000)]


class Restart(Struct, forbid_unknown_fields=True):
    down_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
