"""Continuous batching as a state machine without clock or I/O: a scheduler in the manner of vLLM V1 over a `Profile`.

Each step has a budget of tokens. First every running sequence gets its next token, or the next chunk of its prompt;
then waiting ones are admitted, first come first served within a priority, while budget, `max_seqs` and blocks last.
When blocks run out the last-admitted running sequence is preempted: it loses its blocks, waits at the front, and
computes its prompt and its output so far once more (less what the prefix cache still has).

Whoever drives it moves time: with a real clock (`sage.llm.simulated.server`), or from event to event::

    engine.submit(Request("a", prompt_tokens=100, output_tokens=20), now)
    while (at := engine.next_event()) is not None:
        step = engine.advance(at)
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections.abc import Hashable

from sage.llm.simulated.blocks import KVBlocks
from sage.llm.simulated.profile import BLOCK_TOKENS, Profile
from sage.llm.simulated.sequence import EngineSnapshot, Request, Running, Step


class Engine:
    """See the module. Times are seconds on any one clock that does not go back."""

    def __init__(self, profile: Profile, seed: int = 0) -> None:
        self.profile = profile
        self._random = random.Random(seed)
        self._blocks = KVBlocks(profile.blocks)
        self._capacity = 1.0
        self._max_seqs = profile.max_seqs
        self._sequences: dict[Hashable, Running] = {}
        self._waiting: list[Running] = []
        self._running: list[Running] = []
        """By key: the one to preempt first stands last."""
        self._in_step: list[Running] = []
        self._preempted: list[Running] = []
        self._step_ends: float | None = None
        self._now = -math.inf
        self._arrivals = 0
        self._steps = self._prompt_tokens = self._output_tokens = self._preemptions = 0
        self._cache_queries = self._cache_hits = 0

    def submit(self, request: Request, now: float) -> None:
        """Let it wait for its turn. Raises ValueError if it could never run, or if `advance` has to be called first."""
        self._arrive(now)
        tokens = request.prompt_tokens + request.output_tokens
        if request.prompt_tokens < 1 or request.output_tokens < 0 or tokens > self.profile.max_model_len:
            raise ValueError(f"{request}: from 1 to {self.profile.max_model_len} tokens")
        if request.id in self._sequences:
            raise ValueError(f"there is a request {request.id!r} already")
        self._arrivals += 1
        sequence = Running(request, now, self._arrivals)
        self._sequences[request.id] = sequence
        insort(self._waiting, sequence, key=_key)
        if self._step_ends is None:
            self._begin_step(now)

    def cancel(self, request_id: Hashable, now: float) -> bool:
        """Forget a request; its blocks and its place are free at once. False if it is not (or no more) here."""
        self._arrive(now)
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return False
        self._forget(sequence)
        (self._running if sequence in self._running else self._waiting).remove(sequence)
        return True

    def next_event(self) -> float | None:
        """When the step under way ends; None if there is nothing to do."""
        return self._step_ends

    def advance(self, now: float) -> Step | None:
        """End the step whose time has come by `now`, and begin the next, if there is one; to be called until it returns
        None. Steps follow one another without a gap, also if this is called late."""
        at = self._step_ends
        if at is None or at > now:
            self._now = max(self._now, now)
            return None
        self._now = at
        step = self._end_step(at)
        self._begin_step(at)
        return step

    def set_capacity(self, factor: float) -> None:
        """As if `factor` such GPUs shared the batch evenly, from the next step on: work a token, blocks, `max_seqs` and
        `crowd` all change by it, the costs of a step itself do not. One sequence always fits."""
        if not 0 < factor < math.inf:
            raise ValueError(f"a capacity is more than 0: got {factor!r}")
        self._capacity = factor
        self._max_seqs = max(1, int(self.profile.max_seqs * factor))
        least = math.ceil(self.profile.max_model_len / BLOCK_TOKENS)
        self._blocks.resize(max(least, int(self.profile.blocks * factor)))

    def snapshot(self) -> EngineSnapshot:
        """The figures of this moment."""
        return EngineSnapshot(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=min(1.0, self._blocks.used / self._blocks.capacity),  # more is in use just after a `set_capacity`
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            preemptions=self._preemptions,
            cache_queries=self._cache_queries,
            cache_hits=self._cache_hits,
        )

    def _arrive(self, now: float) -> None:
        if now < self._now or (self._step_ends is not None and self._step_ends <= now):
            raise ValueError(f"advance({now}) has to be called first")
        self._now = now

    def _forget(self, sequence: Running) -> None:
        sequence.present = False
        del self._sequences[sequence.request.id]
        self._give_back(sequence)

    def _give_back(self, sequence: Running) -> None:
        self._blocks.give_back(sequence.held, sequence.private)
        sequence.held = []
        sequence.private = sequence.computed = 0

    def _begin_step(self, now: float) -> None:
        self._in_step = []
        self._preempted = []
        while self._blocks.free < 0:
            self._preempt()
        budget = self._continue(self.profile.max_batched_tokens)
        if not self._preempted:
            self._admit(budget, now)
        self._step_ends = now + self._cost_s() if self._in_step else None

    def _continue(self, budget: int) -> int:
        """Schedule the running; returns what is left of the budget."""
        index = 0
        while index < len(self._running) and budget:
            sequence = self._running[index]
            chunk = min(sequence.total - sequence.computed, budget)
            if not self._make_room(sequence, sequence.computed + chunk):
                break
            self._schedule(sequence, chunk)
            budget -= chunk
            index += 1
        return budget

    def _admit(self, budget: int, now: float) -> None:
        while budget and self._waiting and len(self._running) < self._max_seqs:
            sequence = self._waiting[0]
            hashes = sequence.request.blocks
            # The last token is computed in any case: its logits are needed.
            found = self._blocks.cached(hashes, (sequence.total - 1) // BLOCK_TOKENS)
            known = found * BLOCK_TOKENS
            chunk = min(sequence.total - known, budget)
            needed = _blocks_for(known + chunk) - found
            if needed + self._blocks.idle_among(hashes[:found]) > self._blocks.free:
                return
            self._blocks.share(hashes[:found])
            sequence.held = list(hashes[:found])
            sequence.computed = known
            self._blocks.take(needed)
            sequence.private = needed
            del self._waiting[0]
            insort(self._running, sequence, key=_key)
            if sequence.scheduled_at is None:
                sequence.scheduled_at = now
                sequence.cached = known
                self._prompt_tokens += sequence.request.prompt_tokens
                self._cache_queries += sequence.request.prompt_tokens
                self._cache_hits += known
            self._schedule(sequence, chunk)
            budget -= chunk

    def _make_room(self, sequence: Running, tokens: int) -> bool:
        """Blocks for the first `tokens` of it, taken from those behind it; False if it is the last and went itself."""
        needed = _blocks_for(tokens) - len(sequence.held) - sequence.private
        if needed <= 0:
            return True
        while self._blocks.free < needed:
            if self._preempt() is sequence:
                return False
        self._blocks.take(needed)
        sequence.private += needed
        return True

    def _preempt(self) -> Running:
        victim = self._running.pop()
        self._give_back(victim)
        insort(self._waiting, victim, key=_key)
        self._preempted.append(victim)
        self._preemptions += 1
        return victim

    def _schedule(self, sequence: Running, chunk: int) -> None:
        sequence.chunk = chunk
        self._in_step.append(sequence)
        full = (sequence.computed + chunk) // BLOCK_TOKENS
        first = sequence.computed // BLOCK_TOKENS
        for block in sequence.request.blocks[first:full] if full > first else ():
            if self._blocks.publish(block):
                sequence.private -= 1
                sequence.held.append(block)

    def _cost_s(self) -> float:
        tokens = context = 0
        attention = 0.0
        for sequence in self._in_step:
            chunk = sequence.chunk
            tokens += chunk
            if chunk == 1:
                context += sequence.computed
            else:
                attention += chunk * (sequence.computed + chunk / 2)
        cost_s = self.profile.cost_s(tokens, context, attention, len(self._in_step), self._capacity)
        return cost_s * self._random.lognormvariate(0.0, self.profile.jitter) if self.profile.jitter else cost_s

    def _end_step(self, at: float) -> Step:
        step = Step(at, preempted=self._preempted)
        tokens, gaps = step.tokens, step.gaps
        for sequence in self._in_step:
            if not sequence.present:
                continue
            request = sequence.request
            sequence.computed += sequence.chunk
            if sequence.computed < request.prompt_tokens + sequence.produced:
                continue
            if request.output_tokens:
                last_at = sequence.last_token_at
                if last_at is None:
                    sequence.first_token_at = at
                else:
                    gap_s = at - last_at
                    gaps[gap_s] = gaps.get(gap_s, 0) + 1
                sequence.last_token_at = at
                sequence.produced += 1
                tokens.append(sequence)
            if sequence.produced == request.output_tokens:
                step.finished.append(sequence)
        for sequence in step.finished:
            self._forget(sequence)
        if step.finished:
            self._running = [sequence for sequence in self._running if sequence.present]
        self._steps += 1
        self._output_tokens += len(tokens)
        return step


def _key(sequence: Running) -> tuple[int, int]:
    return sequence.key


def _blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
