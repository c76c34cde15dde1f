"""RAG in two calls: index some files, ask a question. What `sage rag index` and `sage rag ask` do."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import msgspec

from sage.errors import SourceError
from sage.rag.build import BuildOptions, IndexSummary, build_index
from sage.rag.extract import Extract
from sage.rag.index import Index, Passage

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".rst")
CORPUS_SUFFIXES = (".jsonl", ".jsonl.gz")
_MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """An extractive answer: quotes with the numbers of their passages, or the statement that no passage answers."""

    text: str
    sources: list[dict[str, Any]]
    passages: list[Passage]
    answered_by: str


def index_files(
    paths: str | Path | Iterable[str | Path], index_path: str | Path, **options: Unpack[BuildOptions]
) -> IndexSummary:
    """Index the documents in `paths`: corpora (.jsonl, .jsonl.gz), texts (.txt, .md, .rst), or directories of those.

    A line of a corpus is a document (see `build_index`); a text file is one, named by its path. In directories, hidden
    files and files of other kinds are passed over; a file that is named must be of a known kind. Raises `SourceError`.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    with closing(read_documents(given)) as documents:
        return build_index(documents, index_path, **options)


def ask(index_path: str | Path, question: str, top_k: int = 5) -> Answer:
    """Answer `question` from the index at `index_path` with quotes."""
    with Index(index_path) as index:
        passages = index.search(question, top_k)
        answered = Extract(model=index.model)({"question": question, "passages": passages})
    return Answer(answered["answer"], answered["sources"], passages, answered["answered_by"])


def read_documents(paths: Iterable[str | Path]) -> Generator[dict[str, Any]]:
    """The documents in files and directories, as `index_files` takes them."""
    for path in map(Path, paths):
        for file in _files(path):
            if file.name.endswith(CORPUS_SUFFIXES):
                yield from _corpus(file)
            else:
                text = _text(file)
                yield {"id": file.as_posix(), "title": _title(file, text), "text": text}


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith(".") and _known(name))
    elif not path.exists():
        raise SourceError("E362", "there is no such file or directory", at=str(path))
    elif not _known(path.name):
        raise SourceError(
            "E363",
            "this kind of file cannot be indexed",
            at=str(path),
            expected=" ".join(CORPUS_SUFFIXES + TEXT_SUFFIXES),
        )
    else:
        yield path


def _known(name: str) -> bool:
    return name.lower().endswith(CORPUS_SUFFIXES + TEXT_SUFFIXES)


def _corpus(file: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as stream:
            while line := stream.readline(_MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > _MAX_LINE_BYTES:
                    raise SourceError("E364", "the line is too long", at=f"{file}:{number}", expected="at most 64 MB")
                if line.strip():
                    yield _decoded(line, f"{file}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError("E362", "the file cannot be read", at=f"{file}:{number + 1}", got=str(error)) from error


def _decoded(line: bytes, at: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise SourceError(
            "E365", "the line is not a document", at=at, got=str(error), expected="a JSON object"
        ) from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise SourceError("E362", "the file cannot be read", at=str(file), got=error.strerror) from error


def _title(file: Path, text: str) -> str:
    """The first heading of a Markdown file, or the file's name without its suffix."""
    if file.suffix.lower() in (".md", ".markdown"):
        first = text.lstrip().partition("\n")[0]
        if first.startswith("#"):
            return first.strip("# ")
    return file.stem.replace("_", " ").replace("-", " ")
