"""From a request to what the engine and the answer need: prompts, lengths, choices. No I/O."""

from __future__ import annotations

import base64
import random
import struct
from dataclasses import dataclass
from hashlib import blake2b

from sage.clock import SYSTEM_CLOCK
from sage.llm.simulated import wire
from sage.llm.simulated.answers import Answer, Choice, Kind, Wanted
from sage.llm.simulated.profile import Profile
from sage.llm.simulated.text import TOKEN_BYTES, tokenized
from sage.llm.simulated.wire import Refusal

COMPLETION_TOKENS = 16
"""Of a text completion that does not say how many it wants: OpenAI's default."""
EMBEDDING_SIZE = 384
MAX_INPUTS = 2048
"""Of one request for embeddings."""


@dataclass(frozen=True, slots=True)
class Job:
    """An answer, and the prompt of each of its choices."""

    answer: Answer
    prompts: list[bytes]


class Generator:
    """What a model with `profile` answers; the same for the same seed and request."""

    def __init__(self, profile: Profile, seed: int, answer_tokens: int) -> None:
        self.profile = profile
        self._seed = seed
        self._answer_tokens = answer_tokens

    def chat(self, asked: wire.ChatRequest) -> Job:
        """Raises `Refusal`, as do the other methods."""
        self.check_model(asked.model)
        function = asked.called()
        prompt = tokenized(asked.prompt())
        limit = self._limit([prompt], asked.max_completion_tokens or asked.max_tokens, None)
        count = asked.n or 1
        choices = [self._choice(asked, prompt, index, limit, function) for index in range(count)]
        alternatives = (asked.top_logprobs or 0) if asked.logprobs else None
        return self._job("chat", asked, choices, [prompt] * count, alternatives)

    def completion(self, asked: wire.CompletionRequest) -> Job:
        self.check_model(asked.model)
        count = asked.n or 1
        prompts = _prompts(asked.prompt, wire.MAX_SEQUENCES // count, "prompt")
        limit = self._limit(prompts, asked.max_tokens, COMPLETION_TOKENS)
        each = [(prompt, index) for prompt in prompts for index in range(count)]
        choices = [self._choice(asked, prompt, index, limit) for prompt, index in each]
        return self._job("text", asked, choices, [prompt for prompt, _ in each], asked.logprobs)

    def inputs(self, asked: wire.EmbeddingRequest) -> list[bytes]:
        """What is to be embedded."""
        self.check_model(asked.model)
        inputs = _prompts(asked.input, MAX_INPUTS, "input")
        self._limit(inputs, 0, None)
        return inputs

    def check_model(self, asked: str | None) -> None:
        if asked is not None and asked != self.profile.model:
            raise Refusal(404, f"The model `{asked}` does not exist.", param="model", code="model_not_found")

    def _limit(self, prompts: list[bytes], asked: int | None, default: int | None) -> int:
        """Of tokens of an answer. Raises `Refusal` if prompt and answer are longer than the model's context."""
        longest = max(map(len, prompts)) // TOKEN_BYTES
        room = self.profile.max_model_len - longest
        wanted = asked if asked is not None else max(1, min(default or room, room))
        if wanted > room:
            raise Refusal(
                400,
                f"This model's maximum context length is {self.profile.max_model_len} tokens. However, you requested "
                f"{longest + wanted} tokens ({longest} in the prompt, {wanted} in the completion).",
                param="messages",
                code="context_length_exceeded",
            )
        return wanted

    def _choice(
        self, asked: wire.Sampling, prompt: bytes, index: int, limit: int, function: wire.Function | None = None
    ) -> Choice:
        if (asked.min_tokens or 0) > limit:
            raise Refusal(400, f"min_tokens must be at most max_tokens={limit}", param="min_tokens")
        digest = blake2b(prompt, digest_size=16).hexdigest()
        wanted = Wanted(
            seed=f"{self._seed}/{asked.seed}/{index}/{digest}",
            limit=limit,
            least=limit if asked.ignore_eos else asked.min_tokens or 0,
            stops=asked.stops(),
            function=function,
            format=asked.response_format,
        )
        return wanted.choice(self._answer_tokens)

    def _job(
        self, kind: Kind, asked: wire.Sampling, choices: list[Choice], prompts: list[bytes], alternatives: int | None
    ) -> Job:
        distinct = prompts[:: asked.n or 1]  # the choices of a prompt share it
        options = asked.stream_options
        answer = Answer(
            kind,
            choices,
            sum(map(len, distinct)) // TOKEN_BYTES,
            id_=f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{random.getrandbits(96):024x}",
            model=self.profile.model,
            created=int(SYSTEM_CLOCK.wall()),
            alternatives=alternatives,
            include_usage=options is not None and bool(options.include_usage),
        )
        return Job(answer, prompts)


def embedding(text: bytes, size: int, encoding: str | None) -> list[float] | str:
    """A direction of length 1 that depends on the text alone; as numbers, or as 32-bit floats in base64."""
    values = struct.unpack(f"<{size}i", random.Random(blake2b(text).digest()).randbytes(4 * size))
    length = sum(value * value for value in values) ** 0.5 or 1.0
    unit = [value / length for value in values]
    return base64.b64encode(struct.pack(f"<{size}f", *unit)).decode() if encoding == "base64" else unit


def _prompts(given: wire.Input, limit: int, param: str) -> list[bytes]:
    return [tokenized([text]) or bytes(TOKEN_BYTES) for text in wire.texts(given, limit, param)]
