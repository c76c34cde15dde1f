"""How long things take on a simulated server: constants with their sources, and the cost of one step.

A step of a continuously batching server (vLLM V1) costs ::

    step_s + max(weights_s, tokens * token_s) + context * context_s + attention * attention_s

where `tokens` are all that are computed in the step (one for each decoding sequence, many for each prompt), `context`
is the sum of the contexts that decoding sequences read from the KV cache, and `attention` the sum over prompt tokens
of the context before each. `Profile.of` derives the constants from the public figures of a GPU and a model (the
roofline: bytes over bandwidth, operations over peak); what is fitted is said beside it. docs/endpoints.md compares the
result with published measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sage.errors import PipelineError

BLOCK_TOKENS = 16
"""Tokens of one block of the KV cache: vLLM's default on GPUs."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet, and the parts of its two peaks that vLLM reaches."""

    name: str
    flops: float
    """Dense bf16 operations a second."""
    bandwidth: float
    """Bytes a second."""
    memory_bytes: float
    flops_share: float
    bandwidth_share: float = 0.84
    """Fitted: Qwen2.5-1.5B and 7B have equally many layers, so the difference of their steps at batch 1 is bytes alone
    (1,720 of 2,039 GB/s on the A100; Qwen's speed benchmark)."""


@dataclass(frozen=True, slots=True)
class Model:
    """A dense decoder-only model in bf16, by its config.json."""

    name: str
    parameters: float
    """Without embeddings: what every token is multiplied with."""
    head_parameters: float
    """The matrix that turns hidden states into logits: read once a step."""
    layers: int
    width: int
    """Query heads times their size."""
    kv_width: int
    """Key-value heads times their size."""

    @property
    def weight_bytes(self) -> float:
        return 2 * (self.parameters + self.head_parameters)

    @property
    def kv_bytes(self) -> float:
        """Of one token, keys and values in bf16."""
        return 2 * 2 * self.layers * self.kv_width


@dataclass(frozen=True, slots=True)
class Profile:
    """A server: its costs in seconds, and its limits. Checked when made (E242)."""

    name: str
    model: str
    """The name that it serves the model under."""
    step_s: float
    """Of every step, whatever is in it: scheduling, launching kernels, sampling."""
    weights_s: float
    """Reading the weights once."""
    token_s: float
    context_s: float
    attention_s: float
    blocks: int
    """Of the KV cache, `BLOCK_TOKENS` tokens each."""
    max_seqs: int = 256
    max_batched_tokens: int = 2048
    max_model_len: int = 32_768
    jitter: float = 0.0
    """The standard deviation of the logarithm of a step's time."""
    crowd: float = math.inf
    """Beyond this many running sequences each step costs `crowding_s` more for the square of the excess. No property
    of vLLM: it makes a server whose throughput peaks, as measured with real ones that swap or share their GPU."""
    crowding_s: float = 0.0

    def __post_init__(self) -> None:
        needed = math.ceil(self.max_model_len / BLOCK_TOKENS)
        if min(self.max_seqs, self.max_batched_tokens, self.max_model_len) < 1:
            raise PipelineError("E242", "a limit of a profile is too small", got=self, expected="at least 1")
        if self.blocks < needed:
            expected = f"at least {needed} blocks, enough for one sequence of max_model_len"
            raise PipelineError("E242", "the KV cache of a profile is too small", got=self.blocks, expected=expected)

    @classmethod
    def of(
        cls,
        name: str,
        gpu: Gpu,
        model: Model,
        *,
        layer_s: float = 50e-6,
        max_seqs: int = 256,
        max_batched_tokens: int = 2048,
        max_model_len: int = 32_768,
        jitter: float = 0.02,
    ) -> Profile:
        """The profile of `model` in bf16 on one `gpu`.

        `layer_s` is a layer's share of the time in which the GPU does not work, fitted: 50 us for vLLM V1 (Llama-3.1-8B
        at batch 1 on an A100 and on an H100), 120 us for vLLM 0.6 (Qwen2.5-0.5B). Nine tenths of the memory are for
        weights, 2 GB of activations, and the cache.
        """
        flops, bandwidth = gpu.flops * gpu.flops_share, gpu.bandwidth * gpu.bandwidth_share
        cache_bytes = 0.9 * gpu.memory_bytes - model.weight_bytes - 2e9
        return cls(
            name=name,
            model=model.name,
            step_s=layer_s * model.layers,
            weights_s=model.weight_bytes / bandwidth,
            token_s=2 * model.parameters / flops,
            context_s=model.kv_bytes / bandwidth,
            attention_s=4 * model.layers * model.width / flops,
            blocks=int(cache_bytes / (model.kv_bytes * BLOCK_TOKENS)),
            max_seqs=max_seqs,
            max_batched_tokens=max_batched_tokens,
            max_model_len=max_model_len,
            jitter=jitter,
        )

    def cost_s(self, tokens: int, context: int, attention: float, running: int, capacity: float = 1.0) -> float:
        """Of one step, without jitter. `capacity` is the number of such GPUs that share the batch evenly."""
        work = max(self.weights_s, tokens / capacity * self.token_s)
        reading = (context * self.context_s + attention * self.attention_s) / capacity
        crowding = self.crowding_s * max(0.0, running / capacity - self.crowd) ** 2 if self.crowding_s else 0.0
        return self.step_s + work + reading + crowding


A100 = Gpu("A100 SXM 80 GB", flops=312e12, bandwidth=2039e9, memory_bytes=85e9, flops_share=0.55)
"""flops_share is fitted: steps of 2,048 tokens of Qwen3-14B take 334 ms (gpustack, 2,000 tokens in, 100 out)."""
H100 = Gpu("H100 SXM 80 GB", flops=989e12, bandwidth=3352e9, memory_bytes=85e9, flops_share=0.36)
"""flops_share is fitted: steps of 8,192 tokens of Qwen3-14B take 642 ms (the same)."""

QWEN_3B = Model("Qwen/Qwen2.5-3B-Instruct", 2.77e9, 0.311e9, layers=36, width=2048, kv_width=256)
QWEN_7B = Model("Qwen/Qwen2.5-7B-Instruct", 6.53e9, 0.545e9, layers=28, width=3584, kv_width=512)

PROFILES = {
    profile.name: profile
    for profile in (
        Profile.of("a100-qwen2.5-3b", A100, QWEN_3B),
        # vLLM's own defaults differ with the GPU: 8,192 tokens a step on an H100, 2,048 on an A100.
        Profile.of("h100-qwen2.5-7b", H100, QWEN_7B, max_batched_tokens=8192),
        # For tests: steps of a millisecond, and a cache of 4,096 tokens.
        Profile(
            "tiny", "tiny-model", step_s=1e-3, weights_s=0.0, token_s=2e-6, context_s=2e-9, attention_s=1e-9,
            blocks=256, max_seqs=64, max_batched_tokens=512, max_model_len=4096,
        ),
        # Throughput peaks at about 18 sequences and is half of that at 34: 12.2 ms a step there, 13.2 ms at 16.
        Profile(
            "peaked", "peaked-model", step_s=10e-3, weights_s=0.0, token_s=2e-4, context_s=0.0, attention_s=0.0,
            blocks=16_384, max_seqs=256, max_batched_tokens=2048, max_model_len=8192, jitter=0.02,
            crowd=16, crowding_s=1.4e-4,
        ),
    )
}  # fmt: skip
"""By name; what `sage endpoint simulate --list-profiles` lists."""


def profile_named(name: str) -> Profile:
    """Raises `PipelineError` (E242) if there is none of that name."""
    if name not in PROFILES:
        expected = " or ".join(PROFILES)
        raise PipelineError("E242", "there is no such profile", got=name, expected=expected)
    return PROFILES[name]
