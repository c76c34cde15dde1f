"""Embedders: what turns texts into vectors. Chosen by name; an index remembers the name of the one that made it."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from sage.errors import MissingDependency, PipelineError
from sage.rag.minilm import DIMENSIONS, MAX_TOKENS
from sage.rag.model import MODEL_NAME, require_model

if TYPE_CHECKING:
    import numpy as np

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

HASHING = "hashing"
MODELS = (MODEL_NAME, HASHING)
_TOKENS_PER_RUN = 1_536
"""Tokens in one call of the network: more does not make it faster, it only leaves the processor's cache."""
_PADDING_ALLOWED = 0.08
_HASHED_DIMENSIONS = 256
_WORD = re.compile(r"\w+")


class Embedder(Protocol):
    """Makes vectors. Threads may share one."""

    @property
    def name(self) -> str:
        """Vectors of two embedders can be compared only if this is the same."""

    @property
    def dimensions(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """The longest text that is embedded whole; the rest of a longer one is not looked at."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The size of each text in the measure of `max_tokens`, without the marks around it."""

    def encode(self, texts: Sequence[str], threads: int = 1) -> Vectors:
        """One row of length 1 per text, or a row of zeros for a text without a word. Blocks for as long as it takes."""


def check_model(name: str) -> None:
    """Raise the `SageError` that `open_embedder` would raise, without loading anything."""
    if name == MODEL_NAME:
        require_model()
    elif name != HASHING:
        raise PipelineError("E261", "there is no such embedding model", got=name, expected=" or ".join(MODELS))


def open_embedder(name: str = MODEL_NAME) -> Embedder:
    """The embedder called `name`, loaded. Nothing is ever downloaded here.

    All who hold the network share one, so that the steps of a pipeline do not load it several times.
    """
    if name != MODEL_NAME:
        check_model(name)
        return HashingEmbedder()
    with _loading:
        folder = require_model()
        network = _loaded.get(folder)
        if network is None:
            network = _loaded[folder] = MiniLM(folder)
        return network


class MiniLM:
    """all-MiniLM-L6-v2 on onnxruntime, from the files that `sage rag model install` has put in place."""

    name = MODEL_NAME
    dimensions = DIMENSIONS
    max_tokens = MAX_TOKENS - 2

    def __init__(self, folder: Path) -> None:
        # Since 1.29 onnxruntime reports home, and keeps a device id and a database in the user's cache, unless this is
        # set before it is first imported.
        os.putenv("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependency(error.name or "onnxruntime", "rag", "embedding") from error
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        onnxruntime.disable_telemetry_events()  # for the case that somebody else has imported it earlier
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # threads are ours: each takes whole batches, which scales better
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast([_encodable(text) for text in texts], add_special_tokens=False)
        return [len(encoding) + sum(map(len, encoding.overflowing)) for encoding in encodings]

    def encode(self, texts: Sequence[str], threads: int = 1) -> Vectors:
        import numpy as np

        ids = [e.ids for e in self._tokenizer.encode_batch_fast([_encodable(text) for text in texts])]
        vectors = np.zeros((len(ids), DIMENSIONS), np.float32)
        groups = _groups([len(row) for row in ids])
        if threads > 1 and len(groups) > 1:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(threads) as pool:
                results = list(pool.map(lambda group: self._run([ids[i] for i in group]), groups))
        else:
            results = [self._run([ids[i] for i in group]) for group in groups]
        for group, result in zip(groups, results, strict=True):
            vectors[group] = result
        return vectors

    def _run(self, rows: list[list[int]]) -> Vectors:
        import numpy as np

        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), lengths.max()), np.int32)
        pooling = np.zeros((len(rows), 1, ids.shape[1]), np.float32)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            pooling[index, 0, : len(row)] = 1 / len(row)
        found = self._session.run(None, {"ids": ids, "lengths": lengths, "pooling": pooling})[0][:, 0]
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        result: Vectors = np.where(lengths[:, None] > 2, found / norms, np.float32(0))
        return result


_loaded: WeakValueDictionary[Path, MiniLM] = WeakValueDictionary()
_loading = threading.Lock()


class HashingEmbedder:
    """Words and pieces of words hashed into a vector: needs no model, knows no meaning. For tests and for tryouts."""

    name = HASHING
    dimensions = _HASHED_DIMENSIONS
    max_tokens = 200

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(_WORD.findall(text)) for text in texts]

    def encode(self, texts: Sequence[str], threads: int = 1) -> Vectors:
        import numpy as np

        vectors = np.zeros((len(texts), _HASHED_DIMENSIONS), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in _WORD.findall(text.lower()):
                for piece, weight in ((word, 1.0), (word[:4], 0.5)):
                    digest = hashlib.blake2b(_encodable(piece).encode(), digest_size=4).digest()
                    row[int.from_bytes(digest[:3]) % _HASHED_DIMENSIONS] += weight if digest[3] & 1 else -weight
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, norms, out=vectors, where=norms > 0)
        return vectors


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in groups of similar length, the longest first, so that next to nothing is spent on padding."""
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        fits = groups and (len(groups[-1]) + 1) * longest <= _TOKENS_PER_RUN
        if fits and longest - lengths[index] <= max(2, longest * _PADDING_ALLOWED):
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def _encodable(text: str) -> str:
    """`text` without lone surrogates, which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
