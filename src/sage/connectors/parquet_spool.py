"""Parquet as the output of a job that may be killed: rows wait in a spool of Arrow streams, which can be continued.

A Parquet file cannot: what it holds stands at its end. So the file is made from the spool when the job is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sage.connectors.output_errors import translated
from sage.connectors.output_file import OutputFile
from sage.connectors.parquet_writer import ROW_GROUP_ROWS, ParquetWriter
from sage.errors import SinkError
from sage.flow.sink import Rejected


class SpooledParquetWriter(ParquetWriter):
    """`file` is the spool; it begins with the rows of `existing`, if that is given."""

    def __init__(self, file: OutputFile, schema: Any, existing: str | None = None) -> None:
        super().__init__(file, schema)
        if file.goes_on:
            for table in self._tables():
                self._learn(table.schema)
        elif existing is not None:
            self._copy(existing)

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        if self._pending_rows >= ROW_GROUP_ROWS:  # first: a batch that is written again must not be there already
            self._flush()
        return self._collected(records)

    def sync(self) -> Any:
        self._flush()
        return self.file.sync()

    def commit(self) -> None:
        self.sync()
        final = ParquetWriter(OutputFile(self.file.path), self._schema)
        try:
            for table in self._tables():
                final.take(table)
            final.commit()
        except BaseException:
            final.file.discard()
            raise
        self.file.remove()

    def abort(self) -> str | None:
        return self.file.put_aside()

    def _flush(self) -> None:
        """All that is collected goes to the spool, or nothing."""
        import pyarrow

        spool = self.file.stream()
        before = spool.tell()
        with translated(self.file.path):
            try:
                for table in self._pending:
                    with pyarrow.ipc.new_stream(spool, table.schema) as stream:
                        stream.write_table(table)
            except OSError:
                spool.truncate(before)
                spool.seek(before)
                raise
        self._pending, self._pending_rows = [], 0

    def _tables(self) -> Iterator[Any]:
        import pyarrow

        with self.file.reopened() as spool:
            end = spool.seek(0, 2)
            spool.seek(0)
            while spool.tell() < end:
                try:
                    yield pyarrow.ipc.open_stream(spool).read_all()
                except pyarrow.ArrowException as error:
                    raise SinkError(
                        "E558", "what earlier runs of the job had written cannot be read", at=self.file.path
                    ) from error
