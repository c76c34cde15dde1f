"""Traces of real requests: when they came, and how many tokens they had."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from sage.errors import SourceError, UsageError
from sage.simulation.workload import Demand, Phase, Replay


def read_trace(path: Path, *, speed: float = 1.0, most: int | None = None) -> Replay:
    """The first `most` requests of a trace, `speed` times as fast, from its first request on.

    A CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens (Azure), or JSON lines with timestamp (ms),
    input_length and output_length (Mooncake); also gzipped. Raises `SourceError` E306 or `UsageError` E104.
    """
    if speed <= 0:
        raise UsageError("E104", "bad speed of a trace", got=speed, expected="more than 0")
    rows: list[tuple[float, Demand]] = []
    try:
        for at_s, prompt, output in _requests(path):
            if most is not None and len(rows) == most:
                break
            rows.append((at_s, Demand((Phase(0.0, max(1, prompt), max(1, output)),), float(prompt + output))))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        at = f"{path}, request {len(rows) + 1}"
        raise SourceError("E306", "this trace cannot be read", at=at, got=error) from error
    if not rows:
        raise SourceError("E306", "there is no request in this trace", at=str(path))
    first_s = rows[0][0]
    return Replay([((at_s - first_s) / speed, demand) for at_s, demand in rows])


def _requests(path: Path) -> Iterator[tuple[float, int, int]]:
    name = path.name.removesuffix(".gz")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        if name.endswith(".csv"):
            for row in csv.DictReader(lines):
                at = datetime.fromisoformat(row["TIMESTAMP"][:26])
                yield at.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"])
        else:
            for line in lines:
                request = json.loads(line)
                yield request["timestamp"] / 1000, int(request["input_length"]), int(request["output_length"])
