"""Files as sinks: an output file appears whole or not at all."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sage.connectors.output_errors import check_writable
from sage.connectors.output_file import OutputFile, is_committed
from sage.errors import SinkError
from sage.flow.sink import Rejected, Sink, SinkContext, SyncedWriter, Writer


@dataclass(frozen=True)
class FileSink(Sink):
    """Writes one file: what is there is replaced when the run ends well or, with `SinkContext.append`, added to."""

    path: str | os.PathLike[str]
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_sync"

    @abstractmethod
    def writer(self, file: OutputFile, context: SinkContext) -> FileWriter:
        """The writer that fills `file`; one that goes on at ``context.place`` does not copy what is there."""

    def check(self) -> None:
        check_writable(os.fspath(self.path))

    def open(self, context: SinkContext) -> Writer:
        path = os.fspath(self.path)
        check_writable(path)
        if context.committing and context.place is not None and is_committed(path, context.job):
            return Committed()
        file = OutputFile(path, context.job, context.place)
        try:
            return self.writer(file, context)
        except BaseException:
            file.discard()
            raise


class FileWriter(SyncedWriter):
    """Writes to an `OutputFile`."""

    def __init__(self, file: OutputFile) -> None:
        self.file = file

    def sync(self) -> Any:
        return self.file.sync()

    def commit(self) -> None:
        self.file.commit()

    def abort(self) -> str | None:
        return self.file.put_aside()


class Committed(SyncedWriter):
    """The output is in its place already: the run was killed after that, and before it could say so."""

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        raise SinkError("E558", "there is more to write, but the output was put in place", at="a job that goes on")

    def sync(self) -> Any:
        return None

    def commit(self) -> None:
        """It is."""

    def abort(self) -> str | None:
        return None
