"""Dead letters, run again: each enters the pipeline at the step that failed, with the rid that it had.

The pipeline is rewritten: of its steps those remain that the letters can reach, and a source that reads the letters
stands before (or, for a source, in the place of) each step that failed. Order that an ``order_by`` kept is not kept.
"""

from __future__ import annotations

import fcntl
import os
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Self

from sage.errors import PipelineError, StorageError, shorten
from sage.flow.pipeline import Pipeline
from sage.flow.step import Input, Kind, Step
from sage.runtime.letters import LetterSource, Line, letter_of, lines
from sage.runtime.outcome import RunOptions, RunResult, Status


class Replay:
    """The letters of the file at `path`, ready to go through `pipeline` again.

    Run `pipeline` with `options`, then call `conclude`. Until then the file stays as it is: whatever kills the replay,
    no letter is lost, and one that was written just before may be written again. Holds a lock on the file; close it.
    Raises `PipelineError` if no letter can be replayed, `StorageError` if the file cannot be used.
    """

    def __init__(self, pipeline: Pipeline, path: Path) -> None:
        self._path = path
        self._file = _locked(path)
        try:
            self._as_found = _identity(path)
            self._sorted = _sort(pipeline, self._file, path)
            if not self._sorted.offsets:
                raise self._nothing_to_do(pipeline)
        except BaseException:
            self.close()
            raise
        self.pipeline = _rewritten(pipeline, {step: self._source(pipeline, step) for step in self._sorted.offsets})
        self.options = RunOptions(dead_letters=self._again, append=True)
        self._again.unlink(missing_ok=True)  # of a replay that was killed: what it holds is still in the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def staying(self) -> Mapping[str, int]:
        """Letters that cannot be replayed and stay in the file: how many for each reason."""
        return self._sorted.staying

    def conclude(self, result: RunResult) -> RunResult:
        """Leave those letters in the file that were not replayed or failed again, if the run went well; all, if not."""
        went_well = result.status in (Status.SUCCEEDED, Status.SUCCEEDED_WITH_DEAD_LETTERS)
        if went_well and _identity(self._path) != self._as_found:
            raise StorageError(
                "E655", "the dead letters were changed while they were replayed; the file is left as it is",
                at=str(self._path), try_=f"remove what was replayed; what failed again is in {self._again}",
            )  # fmt: skip
        try:
            if went_well:
                self._rewrite()
            self._again.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                "E651", "cannot write dead letters; the file is left as it is", at=str(self._path), got=error.strerror
            ) from error
        return replace(result, dead_letters=self._path if self._path.exists() else None)

    @property
    def _again(self) -> Path:
        return self._path.with_name(f".{self._path.name}.again")

    def _rewrite(self) -> None:
        new = self._path.with_name(f".{self._path.name}.new")
        with new.open("wb") as file:
            for line in lines(self._file):
                if line.offset in self._sorted.kept:
                    file.write(line.text.rstrip(b"\n") + b"\n")
            if self._again.exists():
                with self._again.open("rb") as again:
                    for line in lines(again):
                        file.write(line.text)
            empty = file.tell() == 0
            file.flush()
            os.fsync(file.fileno())
        if empty:
            new.unlink()
            self._path.unlink()
        else:
            new.replace(self._path)

    def _source(self, pipeline: Pipeline, step: str) -> LetterSource:
        found = next(s for s in pipeline.steps if s.name == step)
        decode = found.operator.decode if found.kind is Kind.READ else None
        return LetterSource(self._path, step, self._sorted.offsets[step], decode)

    def _nothing_to_do(self, pipeline: Pipeline) -> PipelineError:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.staying.items())
        return PipelineError(
            "E252", f"no dead letter can be replayed through pipeline {pipeline.name!r}", at=str(self._path),
            got=reasons or "an empty file",
        )  # fmt: skip


@dataclass(frozen=True)
class _Sorted:
    """Which letters can be replayed, by step, and which stay."""

    offsets: Mapping[str, Sequence[int]]
    kept: Collection[int]
    staying: Mapping[str, int]


def _sort(pipeline: Pipeline, file: IO[bytes], path: Path) -> _Sorted:
    offsets: dict[str, array[int]] = {}
    kept: set[int] = set()
    staying: Counter[str] = Counter()
    why_not = {step.name: _why_not(pipeline, step) for step in pipeline.steps}
    for line in lines(file):
        reason, step = _verdict(line, path, pipeline.name, why_not)
        if reason is None:
            offsets.setdefault(step, array("Q")).append(line.offset)
        else:
            kept.add(line.offset)
            staying[reason] += 1
    return _Sorted(offsets, kept, staying)


def _verdict(line: Line, path: Path, pipeline: str, why_not: Mapping[str, str | None]) -> tuple[str | None, str]:
    """Why the letter on `line` cannot be replayed (None if it can), and its step."""
    try:
        letter = letter_of(line, str(path))
    except StorageError:
        return "not dead letters", ""
    step = shorten(letter.step, 80)
    if letter.pipeline != pipeline:
        return f"of pipeline {shorten(letter.pipeline, 80)!r}", step
    if letter.step not in why_not:
        return f"of step {step!r}, which is not in the pipeline", step
    if not letter.replayable:
        return "whose input could not be stored", step
    return why_not[letter.step], letter.step


def _why_not(pipeline: Pipeline, step: Step) -> str | None:
    reached = _reachable(pipeline.steps, {step.name})
    for other in pipeline.steps:
        if other.name in reached and other.kind is Kind.REDUCE:
            return f"of step {step.name!r}, behind which {other.name!r} needs all records and not only these"
    return None


def _reachable(steps: Sequence[Step], starts: Collection[str]) -> set[str]:
    """`starts`, and every step that gets records from them."""
    reached = set(starts)
    while more := {s.name for s in steps if s.name not in reached and any(i.step in reached for i in s.inputs)}:
        reached |= more
    return reached


def _rewritten(pipeline: Pipeline, sources: Mapping[str, LetterSource]) -> Pipeline:
    reached = _reachable(pipeline.steps, sources.keys())
    steps: list[Step] = []
    for step in pipeline.steps:
        if step.name not in reached:
            continue
        inputs = tuple(source for source in step.inputs if source.step in reached)
        if step.name not in sources:
            steps.append(replace(step, inputs=inputs))
        elif step.kind is Kind.READ:
            steps.append(replace(step, operator=sources[step.name]))
        else:
            entry = Step(f"letters-of-{step.name}", Kind.READ, sources[step.name], ())
            steps += [entry, replace(step, inputs=(*inputs, Input(entry.name)))]
    return Pipeline.of(pipeline.name, steps)


def _locked(path: Path) -> IO[bytes]:
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise StorageError("E654", "the folder of the dead letters cannot be written to", at=str(path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageError("E654", "the dead letters cannot be read", at=str(path), got=error.strerror) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StorageError("E654", "the dead letters are being replayed already", at=str(path)) from error
    return file


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
