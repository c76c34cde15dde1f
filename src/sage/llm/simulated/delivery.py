"""Who waits for the tokens of a request: for all of them, or for each one, to write it into a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sage.llm.simulated.answers import Answer
from sage.llm.simulated.sequence import Running


class Waiting:
    """A request that is done when the last of its sequences has ended. Made in the event loop."""

    def __init__(self, sequences: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cached = 0
        """Tokens of its prompts that the prefix cache had."""
        self._left = sequences

    def token(self, sequence: Running) -> None:
        """Nobody looks at it yet."""

    def finished(self, sequence: Running) -> None:
        self.cached += sequence.cached
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


class ChoiceStream:
    """One choice of a request whose tokens are written as they come, each as one HTTP chunk; what belongs before the
    first and after the last goes into the same chunk."""

    __slots__ = ("_answer", "_index", "_waiting", "_write")

    def __init__(self, waiting: Waiting, answer: Answer, index: int, write: Callable[[bytes], None]) -> None:
        self._waiting = waiting
        self._answer = answer
        self._index = index
        self._write = write

    def token(self, sequence: Running) -> None:
        event = self._answer.token(self._index, sequence.produced - 1)
        if sequence.produced == 1:
            event = self._answer.opening(self._index) + event
        if sequence.produced < sequence.request.output_tokens:
            self._write(b"%x\r\n%b\r\n" % (len(event), event))
        else:
            self._end(sequence, event)

    def finished(self, sequence: Running) -> None:
        if not sequence.request.output_tokens:  # an answer without any token
            self._end(sequence, self._answer.opening(self._index))

    def _end(self, sequence: Running, event: bytes) -> None:
        self._waiting.finished(sequence)
        event += self._answer.closing(self._index)
        if self._waiting.done.done():
            event += self._answer.ending(self._waiting.cached)
        self._write(b"%x\r\n%b\r\n" % (len(event), event))
