import gzip
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sage.errors import PipelineError, RecordError, SourceError, StorageError
from sage.rag import Index
from sage.rag.manifest import FORMAT


def best(path, question, **options):
    with Index(path) as index:
        return [passage["id"] for passage in index.search(question, **options)]


def test_what_was_indexed_is_found(documents, build_here):
    with Index(build_here(documents)) as index:
        first = index.search("how are lists sorted", top_k=2)[0]
    assert first["id"] == "sort"
    assert first["metadata"] == {"year": 2001}
    assert documents[1]["text"][first["start"] : first["end"]] == first["text"]
    assert isinstance(first["score"], float)


@pytest.mark.parametrize("method", ["fused", "lexical", "dense"])
def test_every_method_ranks_best_first(documents, build_here, method):
    with Index(build_here(documents)) as index:
        found = index.search("copies files with the shutil module", top_k=3, method=method)
    assert found[0]["id"] == "copy"
    assert [p["score"] for p in found] == sorted((p["score"] for p in found), reverse=True)


def test_stems_and_scripts_without_spaces(documents, build_here):
    path = build_here(documents)
    assert best(path, "sorting a list", method="lexical")[0] == "sort"
    assert best(path, "狗在哪里睡觉", method="lexical") == ["katze"]


@pytest.mark.parametrize("question", ["", "   ", "?!", "\ud800"])
def test_a_question_without_words_finds_nothing(documents, build_here, question):
    assert best(build_here(documents), question) == []


def test_a_long_document_gives_several_passages_but_not_all_of_them(documents, build_here):
    long = {"id": "long", "text": " ".join(f"Sentence {i} is about copying files." for i in range(400))}
    path = build_here([*documents, long], max_tokens=50)
    assert best(path, "copying files sentence 399", top_k=5, per_document=2).count("long") == 2
    with Index(path) as index:
        assert "Sentence 399 " in index.search("sentence 399", top_k=1)[0]["text"]


def test_awkward_documents(build_here):
    documents = [
        {"_id": 7, "text": "number as a name"},
        {"id": "surrogate", "text": "half \ud800 a pair of shoes"},
        {"id": "title", "title": "Only a headline about zebras", "text": ""},
        {"id": "empty", "title": "", "text": ""},
        {"id": "none", "title": None, "text": None},
        {"id": "code", "text": "\x00 NUL \x1b[31m and \u202e turned"},
    ]
    path = build_here(documents)
    assert best(path, "number as a name")[0] == "7"
    assert best(path, "zebras")[0] == "title"
    with Index(path) as index:
        assert index.search("pair of shoes")[0]["text"] == "half \ufffd a pair of shoes"
        assert index.document_count == 6


def test_a_document_of_three_megabytes(build_here):
    path = build_here([{"id": "big", "text": "All work and no play. " * 135_000 + "The needle lies here."}])
    with Index(path) as index:
        assert "needle" in index.search("where lies the needle", top_k=1)[0]["text"]


@pytest.mark.parametrize(
    ("documents", "error", "code"),
    [
        ([], SourceError, "E360"),
        ([{"id": "a", "text": " . "}], SourceError, "E360"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], SourceError, "E361 .*at document 2: got a"),
        ([{"text": "no name"}], RecordError, "E460"),
        ([{"id": "a", "text": 5}], RecordError, "E460"),
        ([{"id": "a", "text": "x", "extra": object()}], RecordError, "E460"),
    ],
)
def test_documents_that_cannot_be_indexed_leave_nothing(build_here, tmp_path, documents, error, code):
    with pytest.raises(error, match=code):
        build_here(documents)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"max_tokens": 5}, {"max_tokens": 9999}, {"embedded": 0}, {"threads": -1}])
def test_options_without_sense_are_refused(documents, build_here, options):
    with pytest.raises(PipelineError, match="E260"):
        build_here(documents, **options)


def test_building_again_replaces_the_index_and_readers_go_on(documents, build_here, tmp_path):
    path = build_here(documents)
    with Index(path) as old:
        build_here([{"id": "new", "text": "copies of everything"}])
        assert old.search("copies files")[0]["id"] == "copy"
        assert best(path, "copies files") == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["test.index"]


def test_a_build_that_fails_keeps_the_old_index(documents, build_here, tmp_path):
    path = build_here(documents)
    with pytest.raises(SourceError):
        build_here([])
    assert best(path, "copies files")[0] == "copy"
    assert [file.name for file in tmp_path.iterdir()] == ["test.index"]


def test_what_is_no_index_is_never_replaced(documents, build_here, tmp_path):
    (tmp_path / "test.index").mkdir()
    (tmp_path / "test.index" / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="E666"):
        build_here(documents)
    assert (tmp_path / "test.index" / "thesis.txt").read_text() == "years of work"


def test_no_index(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "file"):
        with pytest.raises(StorageError, match=r"E662 .*Try: sage rag index"):
            Index(path)


def test_every_damaged_file_is_noticed(documents, build_here):
    path = build_here(documents)
    for file in sorted(file for file in path.rglob("*") if file.is_file() and file.name != "manifest.json"):
        sound = file.read_bytes()
        for broken in (sound[:-1], sound + b"x", bytes([sound[0] ^ 1]) + sound[1:] if sound else b"x"):
            file.write_bytes(broken)
            with pytest.raises(StorageError, match=rf"E663 the index is damaged at .*{re.escape(file.name)}"):
                Index(path)
        file.unlink()
        with pytest.raises(StorageError, match="E663"):
            Index(path)
        file.write_bytes(sound)
    assert best(path, "copies files")[0] == "copy"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda m: m | {"format": FORMAT + 1}, "E664 .*got 2, expected 1"),
        (lambda m: {"format": FORMAT}, "E663"),
        (lambda m: m | {"files": m["files"] | {"../../etc/passwd": m["files"]["passages.npy"]}}, "E663"),
        (lambda m: [], "E663"),
    ],
)
def test_a_manifest_that_cannot_be_right(documents, build_here, change, code):
    manifest = build_here(documents) / "manifest.json"
    manifest.write_text(json.dumps(change(json.loads(manifest.read_text()))))
    with pytest.raises(StorageError, match=code):
        Index(manifest.parent)


def test_a_vector_that_does_not_fit(documents, build_here):
    with Index(build_here(documents)) as index:
        for vector in (np.ones(3, np.float32), np.full(index.dimensions, np.nan, np.float32)):
            with pytest.raises(RecordError, match=r"E462 .*expected 256 finite numbers, made by hashing"):
                index.search("copies", vector=vector)
        with pytest.raises(PipelineError, match="E265"):
            index.search("copies", top_k=0)


def test_threads_and_processes_read_one_index_at_once(documents, build_here):
    path = build_here(documents)
    with Index(path) as index, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: index.search("copies files with shutil", 1)[0]["id"], range(200))
        assert set(found) == {"copy"}
    command = [
        sys.executable,
        "-c",
        f"from sage.rag import Index; print(Index({str(path)!r}).search('shutil')[0]['id'])",
    ]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [reader.communicate()[0] for reader in readers] == ["copy\n"] * 3


@pytest.mark.root
def test_another_user_reads_a_read_only_index(documents, build_here, tmp_path):
    path = build_here(documents)
    before = sorted(path.rglob("*"))
    subprocess.run(["chmod", "-R", "a-w", str(path)], check=True)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    code = f"""
import os, sage.rag, numpy.lib.format, tantivy
from sage.rag import Index
Index({str(path)!r}).search("everything is imported while we may read it")
os.setuid(65534)
print(Index({str(path)!r}).search("shutil")[0]["id"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.stdout == "copy\n", done.stderr
    assert sorted(path.rglob("*")) == before


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"numpy", "onnxruntime", "tokenizers", "tantivy", "aiohttp"}
    code = f"import sys, sage.rag; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == ""


def test_every_public_name_exists():
    import sage.rag

    assert all(getattr(sage.rag, name).__name__ == name for name in sage.rag.__all__)
    with pytest.raises(AttributeError):
        sage.rag.Retriever


def test_the_demo_documents_are_sound():
    from pathlib import Path

    folder = Path(__file__).parents[2] / "data" / "python_faq"
    with gzip.open(folder / "corpus.jsonl.gz", "rt") as lines:
        ids = {json.loads(line)["_id"] for line in lines}
    questions = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    pairs = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    assert (len(ids), len(questions), len(pairs)) == (2038, 94, 94)
    assert {pair[1] for pair in pairs} <= ids
