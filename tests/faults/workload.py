"""What the jobs of fault tests do: calls that leave a line each, into every kind of sink."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sage
from patience import DEADLINE_S
from sage.connectors import Csv, JsonLines, KeyValue, SQLite
from sage.rag import IndexSink
from sage.runtime.recall_async import most_in_flight

KEYS = 7


@dataclass(frozen=True)
class Workload:
    """Unique integers with keys, through a durable call, into every kind of sink, and into a sum by key."""

    folder: Path
    records: int = 300
    concurrency: int = 8
    call_s: float = 0.001
    ordered: bool = False
    threads: bool = False
    retries: int = 0
    processes: int = 1
    reuse: Path | None = None
    index: bool = False
    """Into a search index, too."""

    @property
    def most_in_flight(self) -> int:
        """On threads, calls one after the other that take less than 5 ms share a commit; these take as long."""
        return self.processes * (self.concurrency if self.threads else most_in_flight(self.concurrency))

    def prepare(self) -> None:
        lines = (json.dumps({"n": n, "key": n % KEYS}) for n in range(self.records))
        (self.folder / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def pipeline(self) -> sage.Pipeline:
        pipeline = sage.Pipeline("faults")
        stream = pipeline.read(JsonLines(self.folder / "in.jsonl"), name="read")
        if self.ordered:
            stream = stream.order_by("key")
        paid = stream.map(
            Pay(self.folder / "bill", self.call_s) if self.threads else PayAsync(self.folder / "bill", self.call_s),
            name="pay", durable=True, concurrency=self.concurrency, retries=self.retries,
        )  # fmt: skip
        paid.write(JsonLines(self.folder / "out.jsonl"), name="lines")
        paid.write(Csv(self.folder / "out.csv"), name="rows")
        paid.write(SQLite(self.folder / "out.db", "out"), name="table")
        paid.write(KeyValue(self.folder / "out.kv", key="n"), name="entries")
        if self.index:
            documents = paid.map(lambda record: {"id": record["n"], "text": f"number {record['answer']}"}, name="text")
            documents.write(IndexSink(self.folder / "out.index", model="hashing"), name="index")
        sums = paid.key_by("key").aggregate(int, _add, name="sums")
        sums.map(list).write(JsonLines(self.folder / "sums.jsonl"), name="totals")
        return pipeline

    def run(self) -> sage.RunResult:
        options = sage.RunOptions(job_dir=self.folder / "job", reuse=self.reuse, processes=self.processes)
        return sage.start(self.pipeline(), options).wait(DEADLINE_S)


def _add(total: int, record: Any) -> int:
    return total + int(record["n"])


class Bill:
    """Every call adds a line before it answers; the file outlives whoever made the call."""

    def __init__(self, path: Path, call_s: float) -> None:
        self.path = path
        self.call_s = call_s

    def note(self, record: Any) -> Any:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{record['n']}\n".encode())
        os.close(file)
        return {**record, "answer": record["n"] * 2, "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


class Pay(Bill):
    def __call__(self, record: Any) -> Any:
        answer = self.note(record)
        time.sleep(self.call_s)
        return answer


class PayAsync(Bill):
    async def __call__(self, record: Any) -> Any:
        answer = self.note(record)
        await asyncio.sleep(self.call_s)
        return answer
