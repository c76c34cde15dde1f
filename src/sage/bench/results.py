"""A folder of results: one file for each finished run, so that nothing is measured twice; then what is made of them.

::

    results/<experiment>/
        options.json            what is measured, and by which version; another one is not mixed with it
        runs/<case>-<n>.json    figures of one repeat;  <case>-<n>.parquet  its records
        metrics.json ...        everything that is made of them
        previous.json           metrics.json of the experiment before this
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage.bench.case import Case
from sage.bench.executor import Run
from sage.bench.options import Options
from sage.errors import MissingDependency, StorageError, UsageError
from sage.version import __version__

SCHEMA = 1


class Results:
    """The folder of one experiment. Every method raises `StorageError` E681 if the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs = folder / "runs"

    def begin(self, options: Options, cases: Sequence[Case], *, resume: bool) -> None:
        """Start anew, or go on: then finished runs stay. Raises `UsageError` E150 if it cannot go on with these."""
        meant = {
            "schema": SCHEMA,
            "sage": __version__,
            "options": options.to_dict(),
            "cases": [case.to_dict() for case in cases],
        }
        known = self._read("options.json")
        if resume and known is not None and known != json.loads(json.dumps(meant)):
            raise UsageError(
                "E150", "these results are of another version, or of other options", at=str(self.folder),
                got=_difference(known, meant), try_="without --resume, or another --results folder",
            )  # fmt: skip
        with self._storing():
            self._runs.mkdir(parents=True, exist_ok=True)
            if not (resume and known is not None):
                self._clear()
        self.write("options.json", json.dumps(meant, indent=1))

    def finished(self, case: Case, repeat: int) -> dict[str, float] | None:
        """The figures of a run that ended, or None."""
        found = self._read(f"runs/{_name(case, repeat)}.json")
        return None if found is None else {str(name): float(value) for name, value in found.items()}

    def keep(self, case: Case, repeat: int, figures: Mapping[str, float], run: Run | None) -> None:
        """A run has ended: first its records, then the figures, whose file says that both are there."""
        name = _name(case, repeat)
        if run is not None:
            with self._storing():
                write_parquet(self._runs / f"{name}.parquet", run)
        self.write(f"runs/{name}.json", json.dumps(figures, indent=1))

    def previous(self) -> dict[str, Any] | None:
        """The metrics of the experiment before this one."""
        return self._read("previous.json")

    def write(self, name: str, content: str | bytes) -> None:
        """A file, in place as a whole or not at all."""
        self.make(name, lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode()))

    def make(self, name: str, writer: Callable[[Path], object]) -> None:
        """The same, written by `writer` to the path that it is given."""
        path = self.folder / name
        unfinished = path.with_name(f".{path.name}")
        with self._storing():
            writer(unfinished)
            unfinished.replace(path)

    def _clear(self) -> None:
        metrics = self.folder / "metrics.json"
        if metrics.exists():
            metrics.replace(self.folder / "previous.json")
        for path in self._runs.iterdir():
            path.unlink()

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise StorageError(
                "E682", "results cannot be read", at=str(path), got=error, try_="remove the file, or without --resume"
            ) from error
        if not isinstance(content, dict):
            raise StorageError("E682", "results cannot be read", at=str(path), expected="a JSON object")
        return content

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                "E681", "results cannot be written", at=str(self.folder), got=error,
                try_="make room, then --resume: finished runs are kept",
            ) from error  # fmt: skip


def write_parquet(path: Path, run: Run) -> None:
    """One row for each record. Raises `MissingDependency` without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency("pyarrow", "bench", "writing the records of a run") from error
    rows = run.rows
    table = pyarrow.table(
        {
            "job": pyarrow.array([rows.job[index] for index in rows.job_index]),
            "record": pyarrow.array(rows.index, pyarrow.int64()),
            "node": pyarrow.array(rows.node, pyarrow.int32()),
            "intended_s": pyarrow.array(rows.intended_s),
            "ended_s": pyarrow.array(rows.ended_s),
            "scheduling_s": pyarrow.array(rows.scheduling_s),
            "queueing_s": pyarrow.array(rows.queueing_s),
            "execution_s": pyarrow.array(rows.execution_s),
        }
    )
    parquet.write_table(table, path)


def _name(case: Case, repeat: int) -> str:
    return f"{re.sub('[^a-z0-9_]+', '-', f'{case.series} {case.name}'.lower()).strip('-')}-{repeat}"


def _difference(known: Mapping[str, Any], meant: Mapping[str, Any]) -> str:
    old, new = json.loads(json.dumps(known)), json.loads(json.dumps(meant))
    if old.get("sage") != new["sage"] or old.get("schema") != new["schema"]:
        return f"SAGE {old.get('sage')}, schema {old.get('schema')}"
    options = old.get("options", {})
    changed = [f"{name}={value}" for name, value in options.items() if new["options"].get(name) != value]
    return ", ".join(changed) or "other cases"
