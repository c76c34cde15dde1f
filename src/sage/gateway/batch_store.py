"""Files and batches on disk. Blocks, and may be used by several threads; a folder belongs to one gateway at a time,
which holds its lock.

::

    lock               held while a gateway uses the folder
    file-*.json        what a file is; file-*.jsonl: its lines
    batch_*.json       where a batch stands
    batch_*.results    what became of its requests so far, a line each, in the order in which they ended
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from sage.errors import StorageError
from sage.gateway.batch import MAX_LINE_BYTES, Batch, FileCard, Result, is_id, new_id, read_result
from sage.private import check_private, opener

C = TypeVar("C", FileCard, Batch)
_log = logging.getLogger(__name__)


class BatchStore:
    """Opened in its folder, which is made if it is not there. Raises `StorageError` E671 if another gateway has it, or
    if it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_private(folder)
            self._lock = opener(str(folder / "lock"), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._unusable(str(error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise self._unusable("another gateway uses it") from error
        try:
            for left in folder.glob("*.part"):
                left.unlink()
            self._files = {card.id: card for card in self._all("file-", FileCard)}
            self._batches = {batch.id: batch for batch in self._all("batch_", Batch)}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._lock)

    @property
    def size_bytes(self) -> int:
        """Of all files, and of the results of batches."""
        total = 0
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):  # a draft that became a file just now
                total += entry.stat().st_size
        return total

    def draft(self) -> Path:
        """Where a new file may be written; `keep` it, or unlink it."""
        return self._folder / f"{new_id('draft-')}.part"

    def keep(self, card: FileCard, draft: Path) -> None:
        """From now on the draft is this file."""
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(self.content(card))
        self._write(card)  # and syncs the folder, for both
        self._files[card.id] = card

    def file(self, name: str, tenant: str) -> FileCard | None:
        """None for one of another tenant too."""
        card = self._files.get(name)
        return card if card is not None and card.tenant == tenant else None

    def files(self, tenant: str) -> list[FileCard]:
        """The newest first."""
        return [card for card in reversed(list(self._files.values())) if card.tenant == tenant]

    def content(self, card: FileCard) -> Path:
        return self._folder / f"{card.id}.jsonl"

    def delete(self, card: FileCard) -> None:
        del self._files[card.id]
        (self._folder / f"{card.id}.json").unlink(missing_ok=True)
        self.content(card).unlink(missing_ok=True)

    def lines(self, card: FileCard) -> Iterator[bytes]:
        """Those that are not empty. One that is too long comes cut off."""
        with self.content(card).open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if line.strip():
                    yield line

    def batch(self, name: str, tenant: str) -> Batch | None:
        batch = self._batches.get(name)
        return batch if batch is not None and batch.tenant == tenant else None

    def batches(self) -> list[Batch]:
        """Of all tenants, the newest first."""
        return list(reversed(self._batches.values()))

    def save(self, batch: Batch) -> None:
        self._batches[batch.id] = batch
        self._write(batch)

    def results(self, batch: Batch) -> Iterator[tuple[bytes, Result]]:
        """What was written down so far, each with its line; half a line at the end is cut off."""
        if not self._results(batch).exists():
            return
        whole_bytes = 0
        with self._results(batch).open("rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(whole_bytes)
                    return
                whole_bytes += len(line)
                yield line, read_result(line)

    def journal(self, batch: Batch) -> BinaryIO:
        """To write more of them (`sage.gateway.batch_journal`)."""
        return open(self._results(batch), "ab", opener=opener)

    def publish(self, batch: Batch, left: Iterable[Result], created_at: int) -> None:
        """Make the files of what went well and of what did not, under the ids that the batch has for them; `left` are
        those that nobody answered."""
        for name, good in ((batch.output_file_id, True), (batch.error_file_id, False)):
            if name is None:
                continue
            draft = self.draft()
            with open(draft, "xb", opener=opener) as file:
                file.writelines(line for line, result in self.results(batch) if result.good is good)
                if not good:
                    file.writelines(msgspec.json.encode(result) + b"\n" for result in left)
                size_bytes = file.tell()
            card = FileCard(name, batch.tenant, f"{name}.jsonl", "batch_output", size_bytes, created_at)
            self.keep(card, draft)

    def forget(self, batch: Batch) -> None:
        """Its card; the files are their tenant's to delete."""
        del self._batches[batch.id]
        (self._folder / f"{batch.id}.json").unlink(missing_ok=True)

    def clear(self, batch: Batch) -> None:
        """Its results have become files."""
        self._results(batch).unlink(missing_ok=True)

    def _results(self, batch: Batch) -> Path:
        return self._folder / f"{batch.id}.results"

    def _write(self, card: FileCard | Batch) -> None:
        draft = self._folder / f"{card.id}.json.part"
        with open(draft, "wb", opener=opener) as file:
            file.write(msgspec.json.encode(card))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / f"{card.id}.json")
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _all(self, kind: str, of: type[C]) -> list[C]:
        """The oldest first. What is damaged stays where it is, and does not exist for clients."""
        found = []
        for path in self._folder.glob(f"{kind}*.json"):
            try:
                card = msgspec.json.decode(path.read_bytes(), type=of)
            except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                _log.warning("E671: %r is damaged, and left out: %s", str(path), error)
                continue
            if is_id(card.id) and card.id == path.stem:
                found.append(card)
        return sorted(found, key=lambda card: (card.created_at, card.id))

    def _unusable(self, got: str) -> StorageError:
        return StorageError("E671", "the folder of batches cannot be used", at=str(self._folder), got=got)
