"""How a job directory is made, and made ready for the next run.

::

    D/journal.db      the rows (and journal.db-wal while it is open)
    D/job             the id of the job, so that a directory without its journal is not taken for a new one
    D/lock            held by the run that is under way; its process id
    D/calls-*         calls in flight, one file for each process
    D/blobs/          results that are too large for a row
    D/dead.jsonl      dead letters, unless they go elsewhere
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sage import codec
from sage.errors import StorageError
from sage.runtime.durability.disk import sync_folder
from sage.runtime.durability.manifest import of_bytes
from sage.runtime.durability.recording import RowStore
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.rows import Rows
from sage.runtime.durability.slots import InFlight, left_in_flight

JOURNAL, JOB, LOCK, BLOBS, CALLS = "journal.db", "job", "lock", "blobs", "calls-"
MANIFEST, EPOCH, STAGE = b"manifest", b"epoch", b"stage"
RUNNING, COMMITTING, FINISHED = b"running", b"committing", b"finished"


def make(folder: Path) -> None:
    """The folder itself. Raises `StorageError` E611."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.resolve().parent)
    except OSError as error:
        got = "a file" if isinstance(error, FileExistsError) else error.strerror
        raise StorageError(
            "E611", "the job directory cannot be used", at=str(folder), got=got, expected="a folder", try_="another one"
        ) from error


def begin(folder: Path, manifest: bytes) -> None:
    """The rows of a new job."""
    if (folder / JOB).exists():
        raise StorageError(
            "E604", "the journal of the job is missing", at=str(folder / JOURNAL),
            try_="put it back, or use another job directory",
        )  # fmt: skip
    ours = (LOCK, BLOBS, f"{JOURNAL}.new")  # and what SQLite puts beside it
    foreign = [path.name for path in folder.iterdir() if not path.name.startswith(ours)]
    if foreign:
        raise StorageError(
            "E611", "the folder is not empty and is no job directory", at=str(folder),
            got=", ".join(sorted(foreign)[:5]), try_="a folder that is empty, or not there",
        )  # fmt: skip
    Rows.create(
        folder / JOURNAL,
        [
            Change(RowKind.META, MANIFEST, manifest),
            Change(RowKind.META, EPOCH, b"0"),
            Change(RowKind.META, STAGE, RUNNING),
        ],
    )


def recover(folder: Path) -> int:
    """Check everything, count the calls that died with earlier processes, and begin a new epoch."""
    rows = Rows(folder / JOURNAL)
    try:
        rows.verify()
        stored = rows.get(RowKind.META, EPOCH)
        manifest = rows.get(RowKind.META, MANIFEST)
        if stored is None or manifest is None:
            raise StorageError("E604", "a journal is damaged", at=str(rows.path), got="no epoch, or no manifest")
        epoch = int(stored) + 1
        left = sorted(folder.glob(f"{CALLS}*"))
        changes = [Change(RowKind.META, EPOCH, str(epoch).encode()), *deaths(rows, left, epoch)]
        rows.apply(changes)
    finally:
        rows.close()
    for path in left:
        path.unlink()
    (folder / JOB).write_text(of_bytes(manifest).job + "\n")
    return epoch


def died(rows: RowStore, calls: Iterable[InFlight]) -> dict[InFlight, Change]:
    """Each of the calls that were in flight, and have no result, has died once more."""
    changes: dict[InFlight, Change] = {}
    for call in calls:
        if rows.get(RowKind.RESULT, call.key) is None:
            before = rows.get(RowKind.DEATHS, call.key)
            times = 1 + (0 if before is None else int(before.split(b"\n")[0]))
            told = json.dumps([call.step, call.rid]).encode()
            changes[call] = Change(RowKind.DEATHS, call.key, b"%d\n%s" % (times, told))
    return changes


def deaths(rows: RowStore, left: Sequence[Path], epoch: int) -> list[Change]:
    """Of the calls in these files; the file of a process that this was done for is known by its name, though it could
    not be removed then."""
    of_the_last = [path for path in left if path.name.removeprefix(CALLS).split("-")[0] == str(epoch - 1)]
    by_call = died(rows, [call for path in of_the_last for call in left_in_flight(path)])
    lost = Counter(call.step for call in by_call)
    changes = list(by_call.values())
    if lost:
        counts = {step: {"lost": number} for step, number in lost.items()}
        key = f"{epoch - 1}-lost-{left[0].name}".encode()
        changes.append(Change(RowKind.BILL, key, codec.encode(counts)))
    return changes
