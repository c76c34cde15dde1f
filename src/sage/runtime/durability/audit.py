"""A job directory seen from outside: whether it is whole, what is in it, what was paid."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sage.errors import StorageError, UsageError
from sage.runtime.durability.billing import by_run, wasted
from sage.runtime.durability.blobs import Blobs
from sage.runtime.durability.checkpoint import progress_of
from sage.runtime.durability.lock import JobLock
from sage.runtime.durability.manifest import of_bytes
from sage.runtime.durability.memo import entry_of, tokens_of
from sage.runtime.durability.opening import BLOBS, EPOCH, JOURNAL, LOCK, MANIFEST, STAGE
from sage.runtime.durability.row import Row, RowKind
from sage.runtime.durability.rows import Rows
from sage.runtime.durable import StepBill

DROPPABLE = frozenset({RowKind.RESULT, RowKind.ADOPTED, RowKind.DEATHS, RowKind.BILL})
"""Without such a row a call is made again, or a figure of the bill is wrong; without another the job would be wrong."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is in a whole directory."""

    job: str
    pipeline: str
    stage: str
    """``running``, ``committing`` or ``finished``: how far it came."""
    runs: int
    finished: Mapping[str, int]
    """Records, by partition of the sources."""
    rows: Mapping[str, int]
    """By kind."""


def verify(folder: Path) -> Findings:
    """Check every page, row and blob. Raises `StorageError`, E604 for the first that is damaged."""
    rows = _opened(folder)
    try:
        counts = rows.verify()
        blobs = Blobs(folder / BLOBS)
        for _, stored in rows.each(RowKind.RESULT):
            entry_of(blobs.loaded(stored))
        meta = dict(rows.each(RowKind.META))
        if not {MANIFEST, EPOCH, STAGE} <= meta.keys():
            raise StorageError("E604", "a journal is damaged", at=str(rows.path), got="a part of its head is missing")
        finished = {key.decode("utf-8", "replace"): progress_of(v).records for key, v in rows.each(RowKind.POSITION)}
    finally:
        rows.close()
    manifest = of_bytes(meta[MANIFEST])
    return Findings(manifest.job, manifest.pipeline, meta[STAGE].decode(), int(meta[EPOCH]), finished, counts)


def damaged_rows(folder: Path) -> list[Row]:
    """Every row that is not as it was written. Raises `StorageError` if the file cannot be read at all."""
    rows = _opened(folder)
    try:
        return rows.damaged()
    finally:
        rows.close()


def drop_row(folder: Path, number: int) -> Path:
    """Remove a damaged row without which the job goes on rightly; where it is told what it was.

    Raises `UsageError` E116 for one that is whole, is not there, or is needed, `StorageError` E603 while a run is under
    way.
    """
    row = next((row for row in damaged_rows(folder) if row.number == number), None)
    if row is None or row.kind not in DROPPABLE:
        got = "no damaged row of this number" if row is None else f"a row of kind {row.kind!r}, which the job needs"
        raise UsageError(
            "E116", "this row cannot be dropped", at=f"{folder}, row {number}", got=got, try_="another job directory"
        )
    lock = JobLock(folder / LOCK)
    rows = Rows(folder / JOURNAL)
    try:
        rows.drop(row)
    finally:
        rows.close()
        lock.close()
    report = folder / f"dropped-{number}.json"
    told = {"row": number, "kind": row.kind, "key": row.key.hex(), "value": row.value.hex(), "crc": row.crc}
    report.write_text(json.dumps(told) + "\n")
    return report


def bill(folder: Path) -> list[StepBill]:
    """What was paid, by step, over all runs. Raises `StorageError` for a directory that is damaged."""
    rows = _opened(folder)
    try:
        rows.verify()
        blobs = Blobs(folder / BLOBS)
        adopted = {key for key, _ in rows.each(RowKind.ADOPTED)}
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        for key, stored in rows.each(RowKind.RESULT):
            step, _, result = entry_of(blobs.loaded(stored))
            paid = "adopted" if key in adopted else "paid"
            totals[step].update({paid: 1, f"{paid}_tokens": tokens_of(result)})
        for counts in by_run(rows.each(RowKind.BILL)).values():
            for step, some in counts.items():
                reused = {name: some[name] for name in ("reused", "reused_tokens")}
                totals[step].update({**reused, "wasted": wasted(some)})
    finally:
        rows.close()
    return [StepBill(step, **counts) for step, counts in sorted(totals.items())]


def _opened(folder: Path) -> Rows:
    path = folder / JOURNAL
    if not path.is_file():
        raise UsageError("E120", "there is no job directory", at=str(folder), try_="the DIR of sage run --job-dir DIR")
    return Rows(path, read_only=True)
