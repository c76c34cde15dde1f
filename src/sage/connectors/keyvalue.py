"""A key-value store in one file, as a sink and for look-ups: the last value of each key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sage.connectors.output_errors import check_writable
from sage.errors import PipelineError
from sage.flow.sink import Sink, SinkContext, Writer

if TYPE_CHECKING:
    from sage.connectors.keyvalue_file import Entries  # SQLite


@dataclass(frozen=True)
class KeyValue(Sink):
    """Records by key in the file `path`, made if it is not there, always added to.

    The key is the rid, or the text or number in the field `key` of the record. A record replaces the one that has its
    key. Every batch is one transaction, together with its rids: one that comes again changes nothing, not even where
    another record has replaced it meanwhile.
    """

    path: str | os.PathLike[str]
    key: str | None = None
    idempotent: ClassVar[bool] = True
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_write"

    def __post_init__(self) -> None:
        if self.key == "":
            raise PipelineError("E217", "not a name for a key", at="KeyValue", got=repr(self.key))

    def entries(self) -> Entries:
        """What is in it, to be looked up by key and closed; also while somebody writes. Raises `SinkError` if it cannot
        be read."""
        from sage.connectors.keyvalue_file import Entries

        return Entries(os.fspath(self.path))

    def check(self) -> None:
        from sage.connectors.keyvalue_file import check_file

        if os.path.exists(self.path):
            check_file(os.fspath(self.path))
        else:
            check_writable(os.fspath(self.path))

    def open(self, context: SinkContext) -> Writer:
        from sage.connectors.keyvalue_file import EntryWriter

        return EntryWriter(os.fspath(self.path), self.key)
