"""What is answered: the text of each choice, known before the first token is due, and its bytes on the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from sage.llm.simulated.schema import example_of
from sage.llm.simulated.text import TOKEN_BYTES, WORDS, natural_length, pieces, words
from sage.llm.simulated.wire import Function, ResponseFormat

DONE = b"data: [DONE]\n\n"
LOGPROB = -0.25
"""Of every token: a probability of 0.78."""

Kind = Literal["chat", "text"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence of tokens to answer with."""

    tokens: list[str]
    finish_reason: str
    function: str | None = None
    """The tool that is called; the tokens are its arguments."""

    @property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one choice is made from."""

    seed: str
    limit: int
    """Tokens at most."""
    least: int = 0
    """Tokens at least; as many as `limit` where the end of the text is to be ignored."""
    stops: Sequence[str] = ()
    function: Function | None = None
    format: ResponseFormat | None = None

    def choice(self, median: int) -> Choice:
        """The same for the same wish. `median` is that of answers that nothing cuts off."""
        if self.function is not None:
            arguments = json.dumps(example_of(self.function.parameters or {}) or {})
            return self._cut(pieces(arguments), "tool_calls", self.function.name)
        length = natural_length(self.seed, median)
        if self.format is not None and self.format.type != "text":
            return self._cut(pieces(self._document(length)), "stop")
        length = max(length, self.least)
        found = words(self.seed, min(length, self.limit))
        text = "".join(found)
        ends = [at for stop in self.stops if stop and (at := text.find(stop)) >= 0]
        if ends and min(ends) >= TOKEN_BYTES * self.least:
            return Choice(pieces(text[: min(ends)]), "stop")
        return Choice(found, "stop" if length <= self.limit else "length")

    def _document(self, length: int) -> str:
        assert self.format is not None
        if self.format.json_schema is not None and self.format.json_schema.schema is not None:
            return json.dumps(example_of(self.format.json_schema.schema))
        return json.dumps({"answer": "".join(words(self.seed, length)).strip()})

    def _cut(self, tokens: list[str], finish_reason: str, function: str | None = None) -> Choice:
        if len(tokens) > self.limit:
            finish_reason = "length"
        return Choice(tokens[: self.limit], finish_reason, function)


class Answer:
    """One answer of one or several choices, whole or as the events of a stream."""

    def __init__(
        self, kind: Kind, choices: list[Choice], prompt_tokens: int, *, id_: str, model: str, created: int,
        alternatives: int | None, include_usage: bool,
    ) -> None:  # fmt: skip
        """`alternatives`: how many to list for each token beside its log probability; None lists neither."""
        self.choices = choices
        self._kind = kind
        self._alternatives = alternatives
        self._prompt_tokens = prompt_tokens
        self._include_usage = include_usage
        self._id = id_
        self._fields = {"created": created, "model": model}
        usage = ',"usage":null' if include_usage else ""
        self._tail = f"{usage}}}\n\n".encode()
        name = "chat.completion.chunk" if kind == "chat" else "text_completion"
        fields = json.dumps({"id": id_, "object": name, **self._fields})
        self._head = f"data: {fields[:-1]}, ".encode()
        self._frames = [self._frame_of(index, choice) for index, choice in enumerate(choices)]

    def opening(self, index: int) -> bytes:
        """What comes before the first token."""
        if self._kind == "text":
            return b""
        delta: dict[str, Any] = {"role": "assistant", "content": ""}
        function = self.choices[index].function
        if function is not None:
            call = {"index": 0, **self._call(index, function, "")}
            delta = {"role": "assistant", "content": None, "tool_calls": [call]}
        return self._event({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})

    def token(self, index: int, number: int) -> bytes:
        """The event of one token."""
        before, after = self._frames[index]
        token = self.choices[index].tokens[number]
        if self._alternatives is None:
            return before + _escaped(token) + after
        logprobs = json.dumps(self._logprobs([token], TOKEN_BYTES * number)).encode()
        return before + _escaped(token) + after.replace(b'"logprobs": null', b'"logprobs": ' + logprobs)

    def closing(self, index: int) -> bytes:
        """What comes after the last token of a choice."""
        content: dict[str, Any] = {"text": ""} if self._kind == "text" else {"delta": {}}
        reason = self.choices[index].finish_reason
        return self._event({"index": index, **content, "logprobs": None, "finish_reason": reason})

    def ending(self, cached: int) -> bytes:
        """What comes after all choices."""
        if not self._include_usage:
            return DONE
        usage = json.dumps({"choices": [], "usage": self.usage(cached)})
        return self._head + usage[1:].encode() + b"\n\n" + DONE

    def events(self) -> list[bytes]:
        """The whole stream, event by event, one choice after the other."""
        found = []
        for index, choice in enumerate(self.choices):
            found += [self.opening(index), *(self.token(index, n) for n in range(len(choice.tokens)))]
            found.append(self.closing(index))
        return [event for event in [*found, self.ending(0)] if event]

    def whole(self, cached: int) -> bytes:
        name = "chat.completion" if self._kind == "chat" else "text_completion"
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self.choices)]
        document = {"id": self._id, "object": name, **self._fields, "choices": choices, "usage": self.usage(cached)}
        return json.dumps(document).encode()

    def usage(self, cached: int) -> dict[str, Any]:
        produced = sum(len(choice.tokens) for choice in self.choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": produced,
            "total_tokens": self._prompt_tokens + produced,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        logprobs = None if self._alternatives is None else self._logprobs(choice.tokens, 0)
        shared = {"index": index, "logprobs": logprobs, "finish_reason": choice.finish_reason}
        if self._kind == "text":
            return {"text": choice.text, **shared}
        message: dict[str, Any] = {"role": "assistant", "content": choice.text}
        if choice.function is not None:
            call = self._call(index, choice.function, choice.text)
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"message": message, **shared}

    def _call(self, index: int, function: str, arguments: str) -> dict[str, Any]:
        called = {"name": function, "arguments": arguments}
        return {"id": f"call-{self._id}-{index}", "type": "function", "function": called}

    def _event(self, choice: dict[str, Any]) -> bytes:
        return self._head + json.dumps({"choices": [choice]})[1:-1].encode() + self._tail

    def _frame_of(self, index: int, choice: Choice) -> tuple[bytes, bytes]:
        """What stands before and after the token in each of its events."""
        mark = "@token@"
        content: dict[str, Any] = {"delta": {"content": mark}}
        if self._kind == "text":
            content = {"text": mark}
        elif choice.function is not None:
            content = {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": mark}}]}}
        event = self._event({"index": index, **content, "logprobs": None, "finish_reason": None})
        # The model's name stands before, and could hold the mark.
        before, _, after = event.rpartition(mark.encode())
        return before, after

    def _logprobs(self, tokens: Sequence[str], offset: int) -> dict[str, Any]:
        others = {word: LOGPROB - 2.0 - rank for rank, word in enumerate(WORDS[: (self._alternatives or 0)])}
        if self._kind == "text":
            return {
                "tokens": list(tokens),
                "token_logprobs": [LOGPROB] * len(tokens),
                "top_logprobs": [{token: LOGPROB, **others} for token in tokens],
                "text_offset": [offset + TOKEN_BYTES * i for i in range(len(tokens))],
            }
        ranked = [_logprob(word, value) for word, value in others.items()]
        return {"content": [{**_logprob(token, LOGPROB), "top_logprobs": ranked} for token in tokens]}


def _logprob(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


@lru_cache(maxsize=4096)
def _escaped(token: str) -> bytes:
    return json.dumps(token)[1:-1].encode()
