"""``sage rag``: from files to answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command_line import environment, sage, sage_here
from endpoints import MisbehavingEndpoint
from sage.errors import PipelineError
from sage.rag.model import require_model


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the index of two small documents."""
    try:
        require_model()
    except PipelineError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("rag")
    (folder / "docs").mkdir()
    (folder / "docs" / "owls.md").write_text("# Owls\nOwls hunt at night. They eat mice.\n")
    (folder / "docs" / "bees.txt").write_text("Bees collect nectar from flowers and make honey of it.\n")
    done = sage("rag", "index", "docs", "--index", "small.index", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small.index: 2 documents in 2 passages")
    return folder


def test_answers_are_quoted_and_say_so(indexed: Path) -> None:
    done = sage("rag", "ask", "--index", "small.index", "What do bees make of nectar?", cwd=indexed)
    assert done.returncode == 0, done.stderr
    assert "make honey" in done.stdout
    assert "docs/bees.txt" in done.stdout
    assert done.stdout.endswith("quoted from the passages, not written by a model\n")


def test_answers_are_written_where_there_is_an_endpoint(indexed: Path) -> None:
    with MisbehavingEndpoint() as endpoint:
        env = environment(SAGE_LLM_URL=endpoint.url)
        done = sage("rag", "ask", "--index", "small.index", "--json", "What do owls eat?", cwd=indexed, env=env)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["answered_by"] != "extractive"
    assert answer["sources"]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    def refused(*arguments: str) -> tuple[int, str]:
        done = sage_here("rag", *arguments, cwd=tmp_path)
        assert done.stdout == ""
        return done.returncode, done.stderr

    assert refused("ask", "why?")[0] == 2
    assert refused("ask", "--index", "i", " ") == (2, "E104 there is nothing here at QUESTION: got ' '\n")
    for number in ("0", "101", "-1", "x"):
        assert refused("ask", "--index", "i", "--top-k", number, "why?")[0] == 2
    code, said = refused("ask", "--index", "none.index", "why?")
    assert (code, said.splitlines()[-1][:4]) == (6, "E662")
    code, said = refused("index", "none.md", "--index", "i")
    assert (code, said.count("\n")) == (4, 1)
    assert refused("index", "--index", "i")[0] == 2


def test_without_the_embedding_model(tmp_path: Path) -> None:
    env = environment(SAGE_DATA_DIR=str(tmp_path / "data"))
    done = sage("rag", "model", "status", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith("Try: sage rag model install\n")
