import gzip
import json
import os
from pathlib import Path

import pytest

from sage.errors import RecordError, SourceError
from sage.rag import ask, index_files
from sage.rag.build import build_index


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "documents"
    (folder / "deeper").mkdir(parents=True)
    (folder / "notes.md").write_text("\ufeff# About owls\n\nOwls hunt at night. They see well in the dark.\n")
    (folder / "deeper" / "blue_whales.txt").write_text("Whales eat krill by filtering water.")
    (folder / "latin1.rst").write_bytes(b"Caf\xe9 owners brew coffee.")
    (folder / "empty.txt").write_text("")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / ".hidden.txt").write_text("secret owls")
    (folder / "bears.jsonl").write_text('{"id": "bear", "title": "Bears", "text": "Bears sleep in winter."}\n\n')
    with gzip.open(folder / "ants.jsonl.gz", "wt") as file:
        file.write(json.dumps({"_id": "ant", "text": "Ants build hills."}))  # no newline at the end
    return folder


def test_files_of_many_kinds_become_one_index(folder, tmp_path):
    done = []
    summary = index_files(folder, tmp_path / "x.index", model="hashing", progress=done.append)
    assert (summary.documents, summary.empty, summary.passages) == (6, 0, 6)
    assert done[-1] == 6
    assert summary.size_bytes == sum(
        f.stat().st_size for f in summary.path.rglob("*") if f.is_file() and f.name != "manifest.json"
    )
    answer = ask(summary.path, "do owls hunt at night")
    assert answer.sources[0]["title"] == "About owls"
    assert answer.sources[0]["id"] == (folder / "notes.md").as_posix()
    assert answer.text.startswith("Owls hunt at night.")
    assert answer.answered_by == "extractive"
    assert ask(summary.path, "blue whales eat krill").passages[0]["title"] == "blue whales"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("broken.jsonl", b'{"id": "a", "text": "x"}\n{"id": \n', "E365 .*broken.jsonl:2"),
        ("list.jsonl", b"[1]\n", "E365 .*list.jsonl:1"),
        ("cut.jsonl.gz", gzip.compress(b'{"id": "a", "text": "x"}\n', mtime=0)[:-12], "E362 .*cut.jsonl.gz"),
        ("not.jsonl.gz", b"plain", "E362 .*not.jsonl.gz"),
        ("photo.jpg", b"", "E363 .*photo.jpg"),
    ],
)
def test_files_that_cannot_be_indexed(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=code):
        index_files(tmp_path / name, tmp_path / "x.index", model="hashing")
    assert not (tmp_path / "x.index").exists()


def test_a_link_to_nothing_is_not_the_fault_of_the_index(tmp_path):
    (tmp_path / "gone.md").symlink_to("nowhere")
    with pytest.raises(SourceError, match=r"E362 the file cannot be read at .*gone\.md"):
        index_files(tmp_path, tmp_path / "x.index", model="hashing")
    unreadable = ({"text": Path(name).read_text()} for name in [tmp_path / "gone.md"])
    with pytest.raises(SourceError, match=r"E362 a document cannot be read at .*gone\.md"):
        build_index(unreadable, tmp_path / "x.index", model="hashing")
    assert [path.name for path in tmp_path.iterdir()] == ["gone.md"]


def test_who_may_read_an_index_is_left_to_the_umask(folder, tmp_path):
    before = os.umask(0o027)
    try:
        index_files(folder, tmp_path / "x.index", model="hashing")
    finally:
        os.umask(before)
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "x.index").rglob("*") if file.is_file()}
    assert modes == {0o640}
    assert (tmp_path / "x.index").stat().st_mode & 0o777 == 0o750


def test_a_missing_file_and_a_document_without_a_name(tmp_path):
    with pytest.raises(SourceError, match="E362 there is no such file"):
        index_files([tmp_path / "absent.txt"], tmp_path / "x.index", model="hashing")
    (tmp_path / "nameless.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(RecordError, match="E460 a document needs an id"):
        index_files([tmp_path / "nameless.jsonl"], tmp_path / "x.index", model="hashing")


def test_an_empty_folder(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SourceError, match="E360"):
        index_files(tmp_path / "nothing", tmp_path / "x.index", model="hashing")
