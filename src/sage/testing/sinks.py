"""Whether a sink keeps the contract of `sage.flow.sink`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sage.flow.shipping import clone
from sage.flow.sink import Sink, SinkContext, Writable, Writer

ReadBack = Callable[[], Sequence[Any]]
RECORDS: Sequence[Any] = tuple({"n": n, "text": f"record {n}"} for n in range(1, 13))


def check_sink(
    target: Writable, read_back: ReadBack, *, records: Sequence[Any] = RECORDS, refused: Sequence[Any] = ()
) -> None:
    """Write to `target`, which must be empty, many times over; `read_back` returns what it holds, as records.

    `records` are at least four that it takes, `refused` some that it must refuse. Checked: `check` and a run that is
    aborted leave no record (an idempotent sink may keep what it was given, whole); what was committed is there, in
    order; a second run replaces it or, with ``append``, adds to it; refused records do not harm their
    neighbours; an idempotent sink takes a rid once, within a run and over runs.
    """
    sink = target.sink()
    copy = clone(sink)
    half = len(records) // 2
    rids = [f"check/{index}" for index in range(len(records))]
    sink.check()
    _expect(read_back, [], "after check()")
    _check_abort(sink, read_back, records[:half], rids[:half])
    _run(copy, records, rids, refused)
    _expect(read_back, records, "after a run of two batches and commit()")
    sink.check()
    if sink.idempotent:
        _run(sink, records, rids)
        _expect(read_back, records, "after the same rids were written by a second run")
        return
    _run(sink, records[:half], rids[:half])
    _expect(read_back, records[:half], "after a second run, which replaces the first")
    _check_abort(sink, read_back, records[half:], rids[half:])
    _run(sink, records[half:], rids[half:], append=True)
    _expect(read_back, records, "after a third run with append=True")
    _run(sink, [], [])
    _expect(read_back, [], "after a run without records")


def _check_abort(sink: Sink, read_back: ReadBack, records: Sequence[Any], rids: Sequence[str]) -> None:
    before = list(read_back())
    _open(sink).abort()
    _expect(read_back, before, "after open() and abort()")
    writer = _open(sink)
    _write(writer, records, rids, refused=0)
    writer.abort()
    _expect(read_back, records if sink.idempotent and read_back() else before, "after write() and abort()")


def _run(
    sink: Sink, records: Sequence[Any], rids: Sequence[str], refused: Sequence[Any] = (), *, append: bool = False
) -> None:
    half = len(records) // 2
    refused_rids = [f"refused/{index}" for index in range(len(refused))]
    writer = _open(sink, append=append)
    _write(writer, records[:half], rids[:half], refused=0)
    for record, rid in zip(refused, refused_rids, strict=True):
        _write(writer, [record], [rid], refused=1)
    if sink.idempotent:
        _write(writer, records[:half], rids[:half], refused=0)
    _write(writer, [*refused, *records[half:]], [*refused_rids, *rids[half:]], len(refused))
    writer.commit()


def _open(sink: Sink, *, append: bool = False) -> Writer:
    return sink.open(SinkContext("check", "sink", append))


def _write(writer: Writer, records: Sequence[Any], rids: Sequence[str], refused: int) -> None:
    """The first `refused` of `records` must be refused, and no other."""
    found = sorted(rejected.index for rejected in writer.write(records, rids))
    if found != list(range(refused)):
        raise AssertionError(f"write({records!r}) refused {found}, but should refuse {list(range(refused))}")


def _expect(read_back: ReadBack, expected: Sequence[Any], story: str) -> None:
    found, wanted = list(read_back()), list(expected)
    if repr(found) != repr(wanted):  # as text, since records may be anything: NaN, arrays
        raise AssertionError(f"{story} there are {len(found)} records {found!r}, not {len(wanted)} {wanted!r}")
