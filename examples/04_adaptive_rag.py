"""Adaptive retrieval: a question goes the cheap way if it is simple, and the thorough way if it is not.

`route` sends each record to the first branch whose predicate is true, and `union` brings the branches together again.
Short questions get two passages and at most two quoted sentences. The others get eight passages, up to three of one
document, and go to a model, if SAGE_LLM_URL is set; without one they are answered with up to four quoted sentences.

    python examples/04_adaptive_rag.py      needs the embedding model: sage rag model install
"""

import gzip
import json
from pathlib import Path
from typing import Any

import sage
from sage.connectors import Items
from sage.rag import Embed, Extract, Generate, Index, Prompt, Retrieve

DATA = Path(__file__).resolve().parent.parent / "data" / "python_faq"
INDEX = Path("demo-output/small.index")
QUESTIONS = (
    "How do I share global variables across modules?",
    "How do I delete a file?",
    "What is the difference between arguments and parameters?",
    "Why does a += b on a list inside a tuple raise an exception, although the addition works?",
    "What happens to a list when I assign it to a second name and then append to it?",
)
FEW_WORDS = 9


def build_index() -> None:
    """The entries of the FAQ: 94 documents, a few seconds."""
    with gzip.open(DATA / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [document for document in map(json.loads, file) if document["_id"].startswith("faq/")]
    Index.build(documents, INDEX)


def is_simple(record: dict[str, Any]) -> bool:
    return len(record["question"].split()) <= FEW_WORDS


pipeline = sage.Pipeline("adaptive")
questions = pipeline.read(Items([{"question": question} for question in QUESTIONS])).map(Embed())
branches = questions.route(simple=is_simple)
simple = branches.simple.map(Retrieve(INDEX, top_k=2), name="retrieve-few").map(Extract(max_sentences=2))
hard = (
    branches.otherwise.map(Retrieve(INDEX, top_k=8, per_document=3), name="retrieve-many")
    .map(Prompt())
    .map(Generate(without_endpoint=Extract(max_sentences=4)))
)
simple.union(hard).collect("answers")

if __name__ == "__main__":
    build_index()
    result = sage.run(pipeline)
    for record in result.collected("answers"):
        way = "simple" if is_simple(record) else "hard"
        print(f"\n{record['question']}  ({way}, {len(record['passages'])} passages, {record['answered_by']})")
        print("  " + record["answer"].replace("\n", "\n  "))
    print(f"\n{result.account}")
