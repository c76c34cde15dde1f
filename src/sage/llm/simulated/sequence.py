"""What goes into an engine and what comes out: requests, the sequences that they become, steps, figures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """What one sequence needs. Both lengths are known beforehand: nothing is really generated."""

    id: Hashable
    prompt_tokens: int
    output_tokens: int
    """0 for an embedding: it ends with its prompt."""
    blocks: Sequence[int] = ()
    """Hashes of the full blocks of the prompt, and of the output if it shall be found again; each stands for its block
    and everything before it."""
    priority: int = 0
    """Lower goes first."""


class Running:
    """One sequence in the engine, which alone writes to it."""

    __slots__ = (
        "arrived_at", "cached", "chunk", "computed", "first_token_at", "held", "key", "last_token_at", "present",
        "private", "produced", "request", "scheduled_at",
    )  # fmt: skip

    def __init__(self, request: Request, now: float, order: int) -> None:
        self.request = request
        self.key = (request.priority, order)
        self.arrived_at = now
        self.scheduled_at: float | None = None
        """When its first step began."""
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.produced = 0
        self.cached = 0
        """Prompt tokens that the prefix cache had when it was first admitted."""
        self.computed = 0
        """Tokens whose keys and values are in its blocks."""
        self.chunk = 0
        """Tokens of it in the step under way."""
        self.held: list[int] = []
        self.private = 0
        self.present = True

    @property
    def total(self) -> int:
        return self.request.prompt_tokens + self.produced


@dataclass(frozen=True, slots=True)
class Step:
    """What one step brought about, at its end. The sequences in it change with the next call of `advance`."""

    at: float
    tokens: list[Running] = field(default_factory=list)
    """One new token each."""
    gaps: dict[float, int] = field(default_factory=dict)
    """Seconds since the token before -> number of tokens; without first tokens."""
    finished: list[Running] = field(default_factory=list)
    preempted: list[Running] = field(default_factory=list)
    """When the step began."""


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The figures of an engine at one moment; the counts are since its start."""

    running: int
    waiting: int
    kv_usage: float
    """Share of the blocks in use, from 0 to 1."""
    steps: int
    prompt_tokens: int
    """Computed or found in the cache, once per request."""
    output_tokens: int
    preemptions: int
    cache_queries: int
    """Prompt tokens that were looked up."""
    cache_hits: int
    """Those that were found."""
