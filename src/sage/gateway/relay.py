"""A stream of server-sent events on its way through: bytes in, bytes out, unread but for where the usage stands."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from sage.llm.wire import MAX_LINE_BYTES, TooLarge

_USAGE = re.compile(rb'"usage"\s*:\s*\{')  # inside a text the quotes would be escaped


class Usage(msgspec.Struct, frozen=True):
    """What an endpoint says that a request used."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: Usage | None = None
    choices: list[msgspec.Raw] = []


_decode = msgspec.json.Decoder(_Answer).decode


@dataclass(slots=True)
class EventRelay:
    """Passes events on in whole lines. `usage_wanted`: the client asked for the event with the usage itself."""

    usage_wanted: bool
    usage: Usage | None = None
    events: int = 0
    """Nearly the tokens that came: endpoints send one in each event."""
    done: bool = False
    """``[DONE]`` has come: this is a whole answer."""
    _rest: bytes = b""
    _hidden: bool = False
    """The line before was kept back, and so is the empty one behind it."""

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on now. Raises `TooLarge` for a line over 1 MB."""
        data = self._rest + piece if self._rest else piece
        end = data.rfind(b"\n") + 1
        self._rest, lines = data[end:], data[:end]
        if len(self._rest) > MAX_LINE_BYTES:
            raise TooLarge(f"a line of more than {MAX_LINE_BYTES} bytes")
        self.events += lines.count(b"data:")
        if b"[DONE]" in lines or self._hidden or _USAGE.search(lines):
            return b"".join(line for line in lines.splitlines(keepends=True) if self._passes(line))
        return lines

    def _passes(self, line: bytes) -> bool:
        if self._hidden and not line.strip():
            self._hidden = False
            return False
        if not line.startswith(b"data:"):
            return True
        document = line[5:].strip()
        if document == b"[DONE]":
            self.done = True
        elif _USAGE.search(document) and (answer := _read(document)) is not None and answer.usage is not None:
            self.usage = answer.usage
            self._hidden = not self.usage_wanted and not answer.choices
        return not self._hidden


def usage_of(body: bytes) -> Usage | None:
    """Of a whole answer."""
    answer = _read(body)
    return None if answer is None else answer.usage


def _read(document: bytes) -> _Answer | None:
    try:
        return _decode(document)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # it is passed on as it is: its usage is nowhere to be found
