"""Documents as SAGE takes them, and their store inside an index: read one by one, shared by all readers."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from sage.errors import RecordError

if TYPE_CHECKING:
    import numpy as np

_SURROGATES = re.compile("[\ud800-\udfff]")


class Document(msgspec.Struct, frozen=True, array_like=True):
    """A text with a name. `metadata` holds whatever else came with it."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any] = {}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], at: str | None = None) -> Document:
        """The document in `record`: ``id`` or ``_id``, ``text``, and if it likes ``title``; all else is metadata.

        Lone surrogates become U+FFFD, so that offsets stay what they were. Raises `RecordError` E460.
        """
        name = record.get("id", record.get("_id"))
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise RecordError("E460", "a document needs an id", at=at, got=record, expected="a text in 'id' or '_id'")
        parts = {key: record.get(key) or "" for key in ("title", "text")}
        for key, value in parts.items():
            if not isinstance(value, str):
                raise RecordError("E460", f"the {key} of a document is not a text", at=at or str(name), got=value)
        rest = {key: value for key, value in record.items() if key not in ("id", "_id", "title", "text")}
        return cls(sound_text(str(name)), sound_text(parts["title"]), sound_text(parts["text"]), rest)


def sound_text(text: str) -> str:
    """`text` with lone surrogates, which no file and no library takes, replaced one for one."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


class DocumentWriter:
    """Writes documents one after the other. A context manager; numbers them from 0."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._encoder = msgspec.msgpack.Encoder()
        self._ends = [0]

    def __enter__(self) -> Self:
        self._file = (self._folder / "documents.bin").open("wb")
        return self

    def add(self, document: Document) -> None:
        """Raises `RecordError` E460 if its metadata cannot be stored."""
        try:
            raw = self._encoder.encode(document)
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(
                "E460", "the metadata of a document cannot be stored", at=document.id, got=str(error)
            ) from error
        self._file.write(raw)
        self._ends.append(self._ends[-1] + len(raw))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import numpy as np

        self._file.close()
        np.save(self._folder / "documents.npy", np.array(self._ends, np.int64))


class DocumentReader:
    """The documents of an index, by number, read from a shared map of the file."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self._ends: np.ndarray[Any, np.dtype[np.int64]] = np.load(folder / "documents.npy", allow_pickle=False)
        self._decoder = msgspec.msgpack.Decoder(Document)
        with (folder / "documents.bin").open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._ends[-1] else b""

    def __getitem__(self, number: int) -> Document:
        return self._decoder.decode(self._data[self._ends[number] : self._ends[number + 1]])

    def close(self) -> None:
        if isinstance(self._data, mmap.mmap):
            self._data.close()
