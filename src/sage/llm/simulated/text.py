"""Tokens and text. A token is 4 bytes of UTF-8, so a text has a quarter as many tokens as bytes, rounded up; parts of
a prompt (each role, each message) begin with a token of their own.

Answers are words of three letters behind a space: one token each, so that what is counted when it is generated is
counted the same when it comes back in a prompt, and is found in the prefix cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from sage.llm.simulated.profile import BLOCK_TOKENS

TOKEN_BYTES = 4
_BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES

_LETTERS = """
act add age ago aid aim air all and any arm art ask bad bag bar bay bed big bit box boy bus but buy can car cat cup cut
day dog dry due eat egg end eye far few fit fly for fox fun gas get gun guy hat her him hit hot how ice its job key kid
law lay leg let lie low man map may mix new nor not now odd off oil old one our out own pan pay pen per pop put ran raw
red rid row run sad say sea see set she sit six sky son sun tax tea ten the tie tip too top toy try two use van via war
way wet who why win yes yet you
"""
WORDS = tuple(f" {word}" for word in _LETTERS.split())
"""What answers are made of."""


def tokenized(parts: Iterable[str]) -> bytes:
    """The tokens of a prompt, one after the other."""
    tokens = bytearray()
    for part in parts:
        tokens += part.encode("utf-8", "surrogatepass")
        tokens += bytes(-len(tokens) % TOKEN_BYTES)
    return bytes(tokens)


def count_tokens(text: str) -> int:
    """Of a text that stands alone."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // TOKEN_BYTES)


def block_hashes(tokens: bytes) -> list[int]:
    """Of its full blocks, each with everything before it: equal in one process for equal beginnings."""
    hashes = []
    before = 0
    for end in range(_BLOCK_BYTES, len(tokens) + 1, _BLOCK_BYTES):
        before = hash((before, tokens[end - _BLOCK_BYTES : end]))
        hashes.append(before)
    return hashes


def words(seed: str, count: int) -> list[str]:
    """`count` tokens, always the same for a seed; fewer are the beginning of more."""
    return random.Random(seed).choices(WORDS, k=count)


def natural_length(seed: str, median: int) -> int:
    """How many tokens an answer has that nothing cuts off: lognormal, two thirds within a factor of 1.8."""
    return max(1, round(median * random.Random(seed + "/length").lognormvariate(0.0, 0.6)))


def pieces(text: str) -> list[str]:
    """The tokens of an ASCII text."""
    return [text[i : i + TOKEN_BYTES] for i in range(0, len(text), TOKEN_BYTES)]
