"""The figures of a simulated server under vLLM's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sage.llm.simulated.profile import BLOCK_TOKENS, Profile
from sage.llm.simulated.sequence import EngineSnapshot, Step
from sage.metrics import Family, Histogram, HistogramSnapshot, Labels, prometheus_text


class Figures:
    """What the steps of one server have shown since its start."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._labels = (("engine", "0"), ("model_name", profile.model))
        self._first_token = Histogram()
        self._between_tokens = Histogram()
        self._per_token = Histogram()
        self._queued = Histogram()
        self._whole = Histogram()
        self._finished: Counter[str] = Counter()

    def record(self, step: Step) -> None:
        for gap_s, count in step.gaps.items():
            self._between_tokens.record(gap_s, count)
        for sequence in step.tokens:
            if sequence.produced == 1:
                self._first_token.record(step.at - sequence.arrived_at)
        for sequence in step.finished:
            self._whole.record(step.at - sequence.arrived_at)
            if sequence.scheduled_at is not None:
                self._queued.record(sequence.scheduled_at - sequence.arrived_at)
            if sequence.produced > 1 and sequence.first_token_at is not None:
                self._per_token.record((step.at - sequence.first_token_at) / (sequence.produced - 1))

    def ended(self, finish_reason: str) -> None:
        """One sequence ended; `finish_reason` is ``stop``, ``length`` or ``abort``."""
        self._finished[finish_reason] += 1

    def text(self, engine: EngineSnapshot) -> str:
        """In Prometheus' text format."""
        return prometheus_text(self._families(engine))

    def _families(self, engine: EngineSnapshot) -> Iterator[Family]:
        yield self._one("gauge", "num_requests_running", "Requests in the batch.", engine.running)
        yield self._one("gauge", "num_requests_waiting", "Requests that wait to be admitted.", engine.waiting)
        yield self._one(
            "gauge", "kv_cache_usage_perc", "Share of the KV cache in use; 1 is all of it.", engine.kv_usage
        )
        yield self._one("counter", "num_preemptions_total", "Preemptions.", engine.preemptions)
        yield self._one("counter", "prefix_cache_queries_total", "Prompt tokens looked up.", engine.cache_queries)
        yield self._one("counter", "prefix_cache_hits_total", "Prompt tokens found.", engine.cache_hits)
        yield self._one("counter", "prompt_tokens_total", "Prompt tokens processed.", engine.prompt_tokens)
        yield self._one("counter", "generation_tokens_total", "Tokens generated.", engine.output_tokens)
        ended: dict[Labels, float | HistogramSnapshot] = {
            (*self._labels, ("finished_reason", why)): count for why, count in self._finished.items()
        }
        yield Family("vllm:request_success_total", "Requests that ended.", "counter", ended)
        between = self._between_tokens.snapshot()
        yield self._one("histogram", "time_to_first_token_seconds", "From arrival.", self._first_token.snapshot())
        yield self._one("histogram", "inter_token_latency_seconds", "Between the tokens of a request.", between)
        yield self._one("histogram", "time_per_output_token_seconds", "The same, under its older name.", between)
        yield self._one(
            "histogram", "request_time_per_output_token_seconds", "Mean of a request.", self._per_token.snapshot()
        )
        yield self._one("histogram", "request_queue_time_seconds", "Until its first step.", self._queued.snapshot())
        yield self._one("histogram", "e2e_request_latency_seconds", "From arrival to end.", self._whole.snapshot())
        blocks = str(self._profile.blocks)
        cache = {"block_size": str(BLOCK_TOKENS), "num_gpu_blocks": blocks, "enable_prefix_caching": "True"}
        labels = (*self._labels, *cache.items())
        yield Family("vllm:cache_config_info", "The KV cache.", "gauge", {labels: 1.0})
        simulated = (("profile", self._profile.name),)
        yield Family("sage_simulated", "This server is simulated: no GPU.", "gauge", {simulated: 1.0})

    def _one(self, kind: str, name: str, help_: str, value: float | HistogramSnapshot) -> Family:
        return Family(f"vllm:{name}", help_, kind, {self._labels: value})
