"""A search index as a sink: documents by their id, however often they come."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from sage.connectors.keyvalue_file import Entries, EntryWriter
from sage.errors import SageError, SinkError
from sage.flow.sink import Rejected, Sink, SinkContext, Writer
from sage.rag.build import build_index
from sage.rag.documents import Document, DocumentReader
from sage.rag.embedder import Embedder, check_model, open_embedder
from sage.rag.manifest import read_manifest
from sage.rag.model import MODEL_NAME
from sage.rag.place import check_target


@dataclass(frozen=True)
class IndexSink(Sink):
    """Documents (``id``, ``text``, ``title``; the rid where there is no id) into the index at `path`.

    They are kept in a file beside it, by id. At the end of a run that goes well the index is built whole, of them and
    of the documents that were in it: one with the id of another takes its place. Nothing is embedded before that.
    """

    path: str | os.PathLike[str]
    model: str = MODEL_NAME
    idempotent: ClassVar[bool] = True
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_write"

    def check(self) -> None:
        target = Path(self.path)
        check_target(target)
        check_model(self.model)
        folder = target.absolute().parent
        if not os.access(folder, os.W_OK):
            raise SinkError("E551", "the folder of the index cannot be written to", at=str(folder))

    def open(self, context: SinkContext) -> Writer:
        target = Path(self.path).absolute()
        end = f"{context.job}.sage-part" if context.job else "sage-tmp"
        embedder = open_embedder(self.model)  # that it is there is better known now than at the end
        return _IndexWriter(target, target.with_name(f".{target.name}.{end}"), embedder, kept=bool(context.job))


class _IndexWriter(Writer):
    def __init__(self, target: Path, spool: Path, embedder: Embedder, *, kept: bool) -> None:
        self._target = target
        self._spool = spool
        self._embedder = embedder
        self._kept = kept
        if not kept:
            spool.unlink(missing_ok=True)
        self._entries = EntryWriter(str(spool), "id")

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rejected: list[Rejected] = []
        taken: list[tuple[int, Any, str]] = []
        for index, (record, rid) in enumerate(zip(records, rids, strict=True)):
            named = {**record, "id": record.get("id", record.get("_id", rid))} if isinstance(record, dict) else {}
            try:
                taken.append((index, {**named, "id": Document.from_record(named).id}, rid))
            except SageError as error:
                rejected.append(Rejected(index, error))
        refused = self._entries.write([record for _, record, _ in taken], [rid for *_, rid in taken])
        return [*rejected, *(Rejected(taken[one.index][0], one.error) for one in refused)]

    def commit(self) -> None:
        self._entries.commit()
        with closing(Entries(str(self._spool))) as entries:
            if len(entries):
                build_index(_together(self._target, entries), self._target, model=self._embedder.name)
        self._spool.unlink()

    def abort(self) -> str | None:
        told = self._entries.abort()
        if self._kept:
            return told and f"{self._spool} (until the job goes on)"
        self._spool.unlink()
        return None


def _together(target: Path, entries: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The documents that are in the index and are not replaced, and then the new ones."""
    if target.exists():
        count = read_manifest(target).documents
        with closing(DocumentReader(target)) as old:
            for number in range(count):
                document = old[number]
                if document.id not in entries:
                    own = {"id": document.id, "title": document.title, "text": document.text}
                    yield {**document.metadata, **own}
    yield from entries.values()
