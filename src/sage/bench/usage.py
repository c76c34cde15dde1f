"""Processor and memory of this process and those that it started, while something runs."""

from __future__ import annotations

from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self

from sage.errors import MissingDependency

EVERY_S = 0.25


class Usage:
    """Looks every quarter of a second. Raises `MissingDependency` when made without psutil."""

    def __init__(self) -> None:
        try:
            import psutil
        except ImportError as error:
            raise MissingDependency("psutil", "bench", "measuring processor and memory") from error
        self._psutil = psutil
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="sage-bench-usage")
        self._cpu: list[float] = []
        self._memory: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def figures(self) -> dict[str, float]:
        """Mean and largest, up to now; nothing where it was over too soon to look twice. 1.0 is one core."""
        if not self._cpu:
            return {}
        return {
            "cpu_mean": sum(self._cpu) / len(self._cpu),
            "cpu_most": max(self._cpu),
            "memory_mean_bytes": sum(self._memory) / len(self._memory),
            "memory_most_bytes": max(self._memory),
        }

    def _watch(self) -> None:
        own = self._psutil.Process()
        before: dict[int, float] = {}
        at = monotonic()
        while not self._stop.wait(EVERY_S):
            now, used, memory = {}, 0.0, 0.0
            for process in [own, *own.children(recursive=True)]:
                cpu_s, size = self._look(process)
                now[process.pid] = cpu_s
                used += max(0.0, cpu_s - before[process.pid]) if process.pid in before else 0.0
                memory += size
            if before:
                self._cpu.append(used / (monotonic() - at))
                self._memory.append(memory)
            before, at = now, monotonic()

    def _look(self, process: Any) -> tuple[float, float]:
        try:
            times = process.cpu_times()
            return times.user + times.system, float(process.memory_info().rss)
        except self._psutil.Error:
            return 0.0, 0.0
