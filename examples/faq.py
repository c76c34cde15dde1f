"""Questions of the Python FAQ, answered from the Python documentation.

    sage run examples/demo.py       makes the index, runs this pipeline and shows the answers
    sage run examples/faq.py        this pipeline alone, when the index is there

Without an endpoint answers are quotes from the passages; with SAGE_LLM_URL a model writes them.
"""

import time
from pathlib import Path
from typing import Any

import sage
from sage.connectors import JsonLines
from sage.rag import Embed, Generate, Prompt, Retrieve

QUESTIONS = Path(__file__).resolve().parent.parent / "data" / "python_faq" / "queries.jsonl"
OUTPUT = Path("demo-output")


def question(query: dict[str, Any]) -> dict[str, Any]:
    """The record that the steps of `sage.rag` take, made of what the data set has."""
    return {"id": query["_id"], "question": query["text"], "asked_at_s": time.monotonic()}


def answer(record: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping: not the vector, nor the texts of the passages."""
    kept = {key: record[key] for key in ("id", "question", "answer", "sources", "answered_by")}
    return {**kept, "seconds": round(time.monotonic() - record["asked_at_s"], 3)}


pipeline = sage.Pipeline("faq")
(
    pipeline.read(JsonLines(QUESTIONS))
    .map(question)
    .map(Embed(), batch_size=32)
    .map(Retrieve(OUTPUT / "faq.index", top_k=5))
    .map(Prompt())
    .map(Generate())
    .map(answer)
    .write(JsonLines(OUTPUT / "answers.jsonl"))
)

if __name__ == "__main__":
    sage.run(pipeline)
