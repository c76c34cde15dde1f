"""The fenced blocks of a Markdown document, and how each is run.

======================================  ==============================================================================
block                                   what the test does
======================================  ==============================================================================
after ``<!-- file: NAME -->``           writes it to the file NAME
after ``<!-- not run: why -->``         nothing
``console``                             runs each line after ``$`` and compares what it says, if that is shown; numbers,
                                        rids and spaces may differ
``python``                              executes it; the blocks of a document share their names
======================================  ==============================================================================
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from patience import DEADLINE_S

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"(?:^<!-- (file|not run): (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RID = re.compile(r"@[0-9a-f]{16}/\d+")
PROGRESS = re.compile(r"\S+ \d\d:\d\d: read .*")
"""What a command says every few seconds while it is at it: a quick machine never does."""
NUMBER = re.compile(r"\d[\d,.]*k?( us| ms| s)?\b")


@dataclass(frozen=True)
class Block:
    """A fenced block; `order` and `about` are the comment before it, if it is one for us."""

    place: str
    order: str
    about: str
    language: str
    text: str


def blocks_of(document: Path) -> Iterator[Block]:
    markdown = document.read_text(encoding="utf-8")
    for match in FENCE.finditer(markdown):
        line = markdown.count("\n", 0, match.start(4)) + 1
        order, about, language, text = match.groups(default="")
        yield Block(f"{document.name}:{line}", order, about, language, text)


def commands_in(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what it is shown to say."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        yield command, said


def say(command: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What `command` says on both of its outputs; fails if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env={**os.environ, **environment, "PATH": path},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def shape(said: str) -> list[str]:
    """The lines of an output without what differs from run to run: figures, rids, the busiest step, progress."""
    told = (line for line in said.splitlines() if not PROGRESS.fullmatch(line))
    lines = (NUMBER.sub("#", RID.sub("@#", line)).removeprefix("> ") for line in told)
    return [" ".join(line.split()) for line in lines]
