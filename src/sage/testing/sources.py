"""Whether a source keeps the contract of `sage.flow.source`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.flow.shipping import clone
from sage.flow.source import Source

MAX_REOPENED = 200
"""How many positions of a partition are opened again at most, spread evenly."""


@dataclass(frozen=True)
class _Reading:
    """What a partition brought: records by position, and faults by position."""

    records: list[tuple[int, Any]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def tail(self, position: int) -> _Reading:
        records = [entry for entry in self.records if entry[0] >= position]
        return _Reading(records, [entry for entry in self.faults if entry[0] >= position])

    def __str__(self) -> str:
        shown = ", ".join(f"{position}: {record!r}"[:60] for position, record in self.records[:3])
        return f"{len(self.records)} records ({shown}, ...) and {len(self.faults)} faults"


def check_source(source: Source) -> None:
    """Read `source` many times over and compare; it should bring a few dozen records, and some faults too.

    Checked: `check` passes; partition ids are stable and unique; positions ascend; `max_records` is honoured; a chunk
    is never empty; the end is for good. If the source is replayable also: reading again, in chunks of any size and from
    a pickled copy, brings the same; opened at each position, and just after it, it brings the same tail.
    A source that is not replayable is read once.
    """
    source.check()
    if not source.replayable:
        for partition in source.partitions():
            _read(source, partition, 0, max_records=7)
        return
    source.check()
    copy = clone(source)
    partitions = _partitions(source)
    _demand(
        _partitions(copy) == partitions, f"a pickled copy has other partitions: {_partitions(copy)}, not {partitions}"
    )
    for partition in partitions:
        whole = _read(source, partition, 0, max_records=1_000_000)
        for max_records in (1, 2, 7):
            _same(_read(copy, partition, 0, max_records), whole, f"{partition!r} in chunks of {max_records}")
        _check_reopening(source, partition, whole)


def _partitions(source: Source) -> Sequence[str]:
    first, second = list(source.partitions()), list(source.partitions())
    _demand(first == second, f"partitions() brought {first}, then {second}; ids must be stable")
    _demand(all(first), f"a partition id is empty: {first}")
    _demand(len(set(first)) == len(first), f"partition ids must differ: {first}")
    return first


def _check_reopening(source: Source, partition: str, whole: _Reading) -> None:
    positions = sorted(position for position, _ in (*whole.records, *whole.faults))
    for position in positions[:: len(positions) // MAX_REOPENED + 1]:
        for start in (position, position + 1):
            again = _read(source, partition, start, max_records=5)
            _same(again, whole.tail(start), f"{partition!r} opened at {start}")


def _read(source: Source, partition: str, position: int, max_records: int) -> _Reading:
    story = f"reading {partition!r} from {position} with max_records={max_records}"
    reading = _Reading()
    reader = source.open(partition, position)
    try:
        while (chunk := reader.read(max_records)) is not None:
            size = len(chunk.records) + len(chunk.faults)
            _demand(size > 0, f"{story}: an empty chunk; wait for a record, or return None at the end")
            _demand(size <= max_records, f"{story}: a chunk of {size}")
            counts = f"{len(chunk.records)} records, {len(chunk.positions)} positions"
            _demand(len(chunk.records) == len(chunk.positions), f"{story}: {counts}; there must be one for each")
            reading.records.extend(zip(chunk.positions, chunk.records, strict=True))
            reading.faults.extend((fault.position, str(fault.error)) for fault in chunk.faults)
        _demand(reader.read(max_records) is None, f"{story}: something came after the end")
    finally:
        reader.close()
    for positions in ([at for at, _ in reading.records], [at for at, _ in reading.faults]):
        _demand(positions == sorted(set(positions)), f"{story}: positions must ascend, but are {positions[:20]}")
        _demand(not positions or positions[0] >= position, f"{story}: position {positions[:1]} lies before {position}")
    both = {at for at, _ in reading.records} & {at for at, _ in reading.faults}
    _demand(not both, f"{story}: both a record and a fault at {sorted(both)[:5]}")
    return reading


def _same(found: _Reading, expected: _Reading, story: str) -> None:
    # compared as text, since records may be anything: NaN, arrays
    _demand(repr(found.records) == repr(expected.records), f"{story} brought {found}, not {expected}")
    _demand(found.faults == expected.faults, f"{story} brought the faults {found.faults}, not {expected.faults}")


def _demand(condition: bool, story: str) -> None:
    if not condition:
        raise AssertionError(story)
