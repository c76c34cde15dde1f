"""The network of all-MiniLM-L6-v2 as an ONNX graph with 8-bit weights.

Two choices make it fast on a plain processor. Weights are quantised once, per output channel, and activations at run
time, so that the matrix products run on integers. Layer normalisation is written out in elementary operators, because
onnxruntime's own kernel for it is several times slower than the vectorised ones that it is made of here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sage.rag.onnx_writer import MICROSOFT, GraphWriter

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LAYERS = 6
HEADS = 12
DIMENSIONS = 384
MAX_TOKENS = 256
"""What the model was trained for; longer texts must be cut into chunks."""

_EPSILON = 1e-12
_LARGEST_WEIGHT = 64
"""7 bits: sums of products of 8-bit numbers overflow the 16-bit registers of processors without VNNI."""


def build_graph(weights: Mapping[str, Array]) -> bytes:
    """The ONNX file for `weights` (the tensors of the published model, by their names there).

    Inputs: ``ids`` [batch, tokens] padded on the right, ``lengths`` [batch], ``pooling`` [batch, 1, tokens] (1/length
    on the tokens of the text, 0 on padding). Output: ``vectors`` [batch, 1, 384], not normalised.
    """
    graph = GraphWriter()
    ids = graph.input("ids", "int32", ["batch", "tokens"])
    lengths = graph.input("lengths", "int32", ["batch"])
    pooling = graph.input("pooling", "float32", ["batch", 1, "tokens"])
    network = _Network(graph, weights, lengths)
    hidden = network.embeddings(ids)
    for layer in range(LAYERS):
        hidden = network.layer(hidden, f"encoder.layer.{layer}.")
    graph.output(graph.op("MatMul", pooling, hidden), "vectors", "float32", ["batch", 1, DIMENSIONS])
    return graph.to_bytes()


class _Network:
    def __init__(self, graph: GraphWriter, weights: Mapping[str, Array], lengths: str) -> None:
        import numpy as np

        self._np = np
        self._graph = graph
        self._weights = weights
        self._lengths = lengths
        self._last_axis = graph.constant(np.array([-1], np.int64))

    def embeddings(self, ids: str) -> str:
        np, graph = self._np, self._graph
        words = graph.constant(self._weights["embeddings.word_embeddings.weight"].astype(np.float16))
        places = self._weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
        places = places + self._weights["embeddings.token_type_embeddings.weight"][0]
        count = graph.op("Shape", ids, start=1, end=2)
        start = graph.constant(np.array([0], np.int64))
        here = graph.op("Slice", graph.constant(places), start, count, start)
        looked_up = graph.op("Cast", graph.op("Gather", words, ids), to=1)
        return self._normalise(graph.op("Add", looked_up, here), "embeddings.LayerNorm")

    def layer(self, hidden: str, name: str) -> str:
        graph = self._graph
        qkv = self._linear(hidden, *(f"{name}attention.self.{part}" for part in ("query", "key", "value")))
        query, key, value = graph.op_many("Split", qkv, outputs=3, axis=2, num_outputs=3)
        attended = graph.op(
            "MultiHeadAttention", query, key, value, "", self._lengths, domain=MICROSOFT, num_heads=HEADS
        )
        attended = self._linear(attended, f"{name}attention.output.dense")
        hidden = self._normalise(graph.op("Add", attended, hidden), f"{name}attention.output.LayerNorm")
        inner = graph.op("Gelu", self._linear(hidden, f"{name}intermediate.dense"), domain=MICROSOFT)
        outer = self._linear(inner, f"{name}output.dense")
        return self._normalise(graph.op("Add", outer, hidden), f"{name}output.LayerNorm")

    def _linear(self, value: str, *names: str) -> str:
        """One product for all of `names`, side by side."""
        np, constant = self._np, self._graph.constant
        matrix = np.concatenate([self._weights[f"{name}.weight"] for name in names]).T
        bias = np.concatenate([self._weights[f"{name}.bias"] for name in names])
        scale = (np.abs(matrix).max(axis=0) / _LARGEST_WEIGHT).astype(np.float32)
        quantised = constant(np.rint(matrix / scale).astype(np.int8))
        zero = constant(np.zeros(len(scale), np.int8))
        return self._graph.op(
            "DynamicQuantizeMatMul", value, quantised, constant(scale), zero, constant(bias), domain=MICROSOFT
        )

    def _normalise(self, value: str, name: str) -> str:
        np, op, constant = self._np, self._graph.op, self._graph.constant
        gain = constant(self._weights[f"{name}.weight"] * np.float32(DIMENSIONS**0.5))
        centred = op("Sub", value, op("ReduceMean", value, self._last_axis))
        square = op("Add", op("ReduceSumSquare", centred, self._last_axis), constant(np.float32(_EPSILON * DIMENSIONS)))
        scaled = op("Mul", op("Div", centred, op("Sqrt", square)), gain)
        return op("Add", scaled, constant(self._weights[f"{name}.bias"]))
