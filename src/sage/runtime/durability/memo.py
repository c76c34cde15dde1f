"""The step journal: results of calls that cost money."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sage import codec
from sage.errors import RecordError, SageError, StorageError
from sage.flow.graph import StepPlan
from sage.runtime.durability.recording import BlobStore, Recorder, RowStore
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.slots import KEY_BYTES, InFlight, Slots
from sage.runtime.durable import Results

MOST_DEATHS = 3
"""Of the process, while the same call was in flight, the last time alone; then its record is a dead letter."""


class Shared(Protocol):
    """Results that jobs share, here or with the driver."""

    def get(self, key: bytes) -> tuple[Any] | None:
        """The result in a tuple, if there is one."""

    def put(self, key: bytes, result: Any) -> None:
        """Keep it, soon."""


class StepJournal(Results):
    """The journal of one step in one process. `known` are the keys of results that there are, and `deaths` tells of
    calls that were in flight when a process died. With results to `reuse`, `question` is what all calls ask."""

    def __init__(
        self, plan: StepPlan, version: str, *, rows: RowStore, blobs: BlobStore, recorder: Recorder, slots: Slots,
        known: set[bytes], deaths: Mapping[bytes, int], job: str, reuse: Shared | None = None, question: bytes = b"",
        entered: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """`entered` is called when a call is about to be made, and was counted."""
        self._step = plan.name
        self._rows = rows
        self._blobs = blobs
        self._recorder = recorder
        self._slots = slots
        self._known = known
        self._deaths = deaths
        self._prefix = hashlib.sha256(codec.canonical([job, plan.name, version])).digest()
        self._reuse = reuse
        self._question = question
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._under_way: dict[bytes, int] = {}
        """By key, calls without a result: their slots."""
        self._keys: dict[int, bytes] = {}
        self.most_under_way = 0
        """So many at any time."""
        self._entered = entered

    def key(self, rid: str, record: Any) -> bytes:
        name = rid.encode("utf-8", "surrogatepass")
        try:
            content = codec.canonical(record)
        except SageError as error:
            raise self._unfit("the input", error) from error
        digest = hashlib.sha256(self._prefix + len(name).to_bytes(4, "little") + name)
        asked = hashlib.sha256(content).digest()
        digest.update(asked)
        call = digest.digest()[:KEY_BYTES]
        return call if self._reuse is None else call + hashlib.sha256(self._question + asked).digest()

    def find(self, key: bytes) -> tuple[Any] | None:
        key = key[:KEY_BYTES]
        if key in self._known and (stored := self._rows.get(RowKind.RESULT, key)) is not None:
            result = entry_of(self._blobs.loaded(stored))[2]
            self._count("reused")
            self._count("reused_tokens", tokens_of(result))
            return (result,)
        if self._deaths.get(key, 0) >= MOST_DEATHS:
            raise RecordError(
                "E419", f"the process died {self._deaths[key]} times while this record was worked on",
                at=f"step {self._step!r}", try_="look at the record; the call is not made again",
            )  # fmt: skip
        return None

    def adopt(self, key: bytes, rid: str, told: Callable[[], None] | None = None) -> tuple[Any, int] | None:
        found = None if self._reuse is None else self._reuse.get(key[KEY_BYTES:])
        if found is None:
            return None
        self._count("adopted")
        self._count("adopted_tokens", tokens_of(found[0]))
        value = codec.encode([self._step, rid, found[0]])
        key = key[:KEY_BYTES]
        changes = [Change(RowKind.RESULT, key, value, once=True), Change(RowKind.ADOPTED, key, b"", once=True)]
        return found[0], self._recorder.record(changes, large=True, told=told)

    def check_together(self, keys: Sequence[bytes]) -> None:
        if len(keys) > 1 and any(self._is_suspect(key[:KEY_BYTES]) for key in keys):
            raise RecordError(
                "E419",
                "one of these records may have killed its process: each is tried alone",
                at=f"step {self._step!r}",
            )

    def enter(self, key: bytes, rid: str) -> int | None:
        key = key[:KEY_BYTES]
        slot = self._slots.enter(InFlight(key, self._step, rid), alone=self._is_suspect(key))
        if slot is not None:
            with self._lock:
                self._counts["made"] += 1
                self._under_way[key], self._keys[slot] = slot, key
                self.most_under_way = max(self.most_under_way, len(self._under_way))
            if self._entered is not None:
                self._entered()
        return slot

    def leave(self, slot: int) -> None:
        with self._lock:
            self._under_way.pop(self._keys.pop(slot), None)
        self._slots.leave(slot)

    def keep(self, key: bytes, rid: str, result: Any, told: Callable[[], None] | None = None) -> int:
        try:
            value = codec.encode([self._step, rid, result])
        except SageError as error:
            raise self._unfit("the result", error) from error
        with self._lock:
            self._counts.update({"kept": 1, "kept_tokens": tokens_of(result)})
            self._under_way.pop(key[:KEY_BYTES], None)
        if self._reuse is not None:
            self._reuse.put(key[KEY_BYTES:], result)
        return self._recorder.record([Change(RowKind.RESULT, key[:KEY_BYTES], value, once=True)], large=True, told=told)

    def wait(self, number: int) -> None:
        self._recorder.wait(number)

    def check(self) -> None:
        self._recorder.check()

    def counts(self) -> dict[str, int]:
        """Calls made, results kept, reused and adopted, since the run began."""
        with self._lock:
            return dict(self._counts)

    def counts_if_lost(self) -> dict[str, int]:
        """The same, if this process dies with as many calls under way as ever."""
        with self._lock:
            return {**self._counts, "made": self._counts["made"] - len(self._under_way) + self.most_under_way}

    def _is_suspect(self, key: bytes) -> bool:
        """Its process died so often that the next death would be the last: it had better be alone then."""
        return self._deaths.get(key, 0) >= MOST_DEATHS - 1

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number

    def _unfit(self, what: str, error: SageError) -> StorageError:
        return StorageError(
            "E608", f"{what} of a durable step cannot be stored ({error.what})", at=f"step {self._step!r}",
            got=error.got, expected="what sage.codec lists: plain values, numpy arrays",
            try_="return such values, or durable=False",
        )  # fmt: skip


def entry_of(stored: bytes) -> tuple[str, str, Any]:
    """Step, rid and result of a stored value. Raises `StorageError` E604."""
    value = codec.decode(stored)
    if not isinstance(value, list) or len(value) != 3:
        raise StorageError("E604", "this is not a result that SAGE stored", got=stored[:200])
    return value[0], value[1], value[2]


def tokens_of(result: Any) -> int:
    """The tokens that the ``usage`` of a result counts, if it has one."""
    usage = result.get("usage") if isinstance(result, dict) else None
    return sum(n for n in usage.values() if type(n) is int) if isinstance(usage, dict) else 0
