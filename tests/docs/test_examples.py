"""Every example runs, by itself and under ``sage run``, and leaves its outputs in demo-output/ of its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.blocks import ROOT, say
from docs.embedding import require_embedding_model

EXAMPLES = {
    "01_first.py": '{"n":9,"square":81}',
    "02_word_count.py": "90  the",
    "03_async_calls.py": "read 200 = written 198 + dead-lettered 2 + filtered 0",
    "04_adaptive_rag.py": "read 5 = written 5 + dead-lettered 0 + filtered 0",
    "05_own_connectors.py": "both contracts are kept",
    "06_other_frameworks.py": "what is a tuple?",
}
"""Each example, and something that it says."""
ON_THEIR_OWN = {"demo.py", "faq.py"}
WITH_MODEL = {"04_adaptive_rag.py"}


def test_no_example_is_forgotten() -> None:
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == EXAMPLES.keys() | ON_THEIR_OWN


@pytest.mark.parametrize("way", ["python", "sage run"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example: str, way: str, tmp_path: Path) -> None:
    if example in WITH_MODEL:
        require_embedding_model()
    said = say(f"{way} {ROOT / 'examples' / example}", tmp_path, {"PYTHONWARNINGS": "error"})
    assert EXAMPLES[example] in said
    assert {path.name for path in tmp_path.iterdir()} <= {"demo-output"}


def test_demo_on_a_few_documents(tmp_path: Path) -> None:
    """The demo itself, with the entries of the FAQ for documents and a third of its questions."""
    require_embedding_model()
    data = tmp_path / "data" / "python_faq"
    data.mkdir(parents=True)
    say(f"cp -r {ROOT}/examples .", tmp_path, {})
    say(f"gunzip -c {ROOT}/data/python_faq/corpus.jsonl.gz | grep '\"faq/' | gzip > corpus.jsonl.gz", data, {})
    say(f"sed -n 1~3p {ROOT}/data/python_faq/queries.jsonl > queries.jsonl", data, {})
    said = say("sage run examples/demo.py", tmp_path, {"COLUMNS": "80"})
    assert "32 questions" in said
    assert "read 32 = written 32 + dead-lettered 0 + filtered 0" in said
    answers = [json.loads(line) for line in (tmp_path / "demo-output" / "answers.jsonl").read_text().splitlines()]
    assert {answer["answered_by"] for answer in answers} == {"extractive"}
    own = [a for a in answers if a["id"].replace("q:", "faq/") in {source["id"] for source in a["sources"]}]
    assert len(own) > 20
