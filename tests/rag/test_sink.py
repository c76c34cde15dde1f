"""A search index at the end of a pipeline: each document once, whatever happens."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag.conftest import BuildHere
from sage.errors import PipelineError, StorageError
from sage.flow.sink import SinkContext
from sage.rag import Index, IndexSink


def titles(path: Path) -> dict[str, str]:
    """By id, of all documents that a search for the word that all of them have finds."""
    with Index(path) as index:
        found = index.search("word", top_k=100, method="lexical")
        assert index.document_count == len(found)
        return {one["id"]: one["title"] for one in found}


def document(n: int, title: str = "") -> dict[str, str]:
    return {"id": f"d{n}", "title": title or f"number {n}", "text": f"the word and {n}"}


def test_documents_replace_those_with_their_id(build_here: BuildHere) -> None:
    path = build_here([document(1, "old"), document(2, "old")])
    sink = IndexSink(path, model="hashing")
    sink.check()
    writer = sink.open(SinkContext("test", "write"))
    batch = [document(2, "new"), document(3, "new"), {"text": "a word without a name"}, {"id": 4, "text": 5}, "text"]
    rejected = writer.write(batch, [f"in/{n}" for n in range(5)])
    assert [(one.index, one.error.code) for one in rejected] == [(3, "E460"), (4, "E460")]
    assert not writer.write([document(2, "late")], ["in/9"])
    assert not writer.write([document(2, "new")], ["in/0"])
    writer.commit()
    assert titles(path) == {"d1": "old", "d2": "late", "d3": "new", "in/2": ""}


def test_a_run_that_fails_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    sink = IndexSink(tmp_path / "new.index", model="hashing")
    writer = sink.open(SinkContext("test", "write"))
    assert not writer.write([document(1)], ["in/0"])
    assert writer.abort() is None
    writer = sink.open(SinkContext("test", "write"))
    writer.commit()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new.index").mkdir()
    with pytest.raises(StorageError, match="E666 there is something else where the index shall be"):
        sink.check()


KILLED = """
import os, signal, sys
from pathlib import Path
from sage.flow.sink import SinkContext
from sage.rag import IndexSink
import sage.rag.place as place

writer = IndexSink("killed.index", model="hashing").open(SinkContext("test", "write", job="7"))
documents = [{"id": f"d{n}", "title": f"number {n}", "text": f"the word and {n}"} for n in range(20)]
for start in range(0, 20, 5):
    writer.write(documents[start:start + 5], [f"in/{n}" for n in range(start, start + 5)])
    if sys.argv[1] == str(start):
        os.kill(os.getpid(), signal.SIGKILL)
def kill_after(owner, name, moment, at):
    act = getattr(owner, name)
    def acted(path, *more):
        act(path, *more)
        if sys.argv[1] == moment and at(path):
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, acted)
kill_after(place, "_sync", "sync", Path.is_dir)
kill_after(Path, "rename", "aside", lambda path: path.name == "killed.index")
writer.commit()
"""


def test_a_job_that_is_killed_while_it_writes_or_builds_has_each_document_once(
    tmp_path: Path, build_here: BuildHere
) -> None:
    build_here([document(3, "old"), document(99, "old")], "killed.index")
    (tmp_path / ".killed.index-mine").mkdir()
    killed = -signal.SIGKILL
    for moment, code in (("10", killed), ("sync", killed), ("aside", killed), ("never", 0), ("never", 0)):
        ended = subprocess.run([sys.executable, "-c", KILLED, moment], check=False, capture_output=True)
        assert ended.returncode == code, ended.stderr.decode()
    assert titles(tmp_path / "killed.index") == {f"d{n}": f"number {n}" for n in range(20)} | {"d99": "old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".killed.index-mine", "killed.index"]


def test_what_several_write_at_once_is_all_there(tmp_path: Path) -> None:
    path = tmp_path / "shared.index"
    writers = [IndexSink(path, model="hashing").open(SinkContext("test", "write", job=str(n))) for n in range(4)]
    for n, writer in enumerate(writers):
        assert not writer.write([document(n)], [f"in/{n}"])
    with ThreadPoolExecutor(len(writers)) as threads:
        for done in [threads.submit(writer.commit) for writer in writers]:
            done.result()
    assert titles(path) == {f"d{n}": f"number {n}" for n in range(4)}
    assert [path.name for path in tmp_path.iterdir()] == ["shared.index"]


def test_a_model_that_there_is_not_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PipelineError):
        IndexSink(tmp_path / "x", model="none").open(SinkContext("test", "write"))
    assert list(tmp_path.iterdir()) == []
