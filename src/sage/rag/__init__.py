"""Retrieval-augmented generation: from documents to an index, and from questions to answers with their sources.

::

    documents --chunk--> passages --embedder, lexical--> Index on disk        (build, index)
    question  --Embed--> vector --Retrieve--> passages --Prompt--> prompt --Generate--> answer

==================================  =====================================================================
chunking, sentences                  where texts are cut
model, minilm, onnx_writer,         the embedding model: how it gets onto the machine, and what it computes
safetensors_file, embedder
documents, lexical, passages,       the parts of an index on disk
manifest
fusion                              one ranking from two
build, index, sink                  an index as a whole: written, searched, and the end of a pipeline
embed, retrieve, prompt, generate,  the steps of a pipeline
extract, quotes, shape, adapters
library                             all of it in two calls: index some files, ask a question
==================================  =====================================================================

Importing this package imports none of numpy, onnxruntime, tokenizers or tantivy; the names below load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage.rag.adapters import from_haystack as from_haystack
    from sage.rag.adapters import from_langchain as from_langchain
    from sage.rag.build import IndexSummary as IndexSummary
    from sage.rag.chunking import TextChunk as TextChunk
    from sage.rag.chunking import chunk as chunk
    from sage.rag.embed import Embed as Embed
    from sage.rag.extract import Extract as Extract
    from sage.rag.generate import Generate as Generate
    from sage.rag.index import Index as Index
    from sage.rag.index import Passage as Passage
    from sage.rag.library import Answer as Answer
    from sage.rag.library import ask as ask
    from sage.rag.library import index_files as index_files
    from sage.rag.model import install_model as install_model
    from sage.rag.prompt import Prompt as Prompt
    from sage.rag.retrieve import Retrieve as Retrieve
    from sage.rag.sink import IndexSink as IndexSink

_HOMES = {
    "Embed": "embed",
    "Retrieve": "retrieve",
    "Prompt": "prompt",
    "Generate": "generate",
    "Extract": "extract",
    "Index": "index",
    "IndexSink": "sink",
    "IndexSummary": "build",
    "Passage": "index",
    "TextChunk": "chunking",
    "chunk": "chunking",
    "install_model": "model",
    "index_files": "library",
    "ask": "library",
    "Answer": "library",
    "from_langchain": "adapters",
    "from_haystack": "adapters",
}

__all__ = [*_HOMES]  # noqa: PLE0604 -- all of them are texts


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
