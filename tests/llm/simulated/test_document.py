"""The Python of docs/endpoints.md runs, and its tables name what there is."""

from __future__ import annotations

import re

from docs.blocks import ROOT, blocks_of
from sage.llm.simulated import PROFILES
from sage.llm.simulated.faults import KINDS

DOCUMENT = ROOT / "docs" / "endpoints.md"


def test_its_examples_run() -> None:
    blocks = [block for block in blocks_of(DOCUMENT) if block.language == "python"]
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block.text, block.place, "exec"), {"__name__": "example"})


def test_it_names_every_profile_and_every_fault() -> None:
    text = DOCUMENT.read_text()
    missing = [name for name in (*PROFILES, *KINDS) if not re.search(rf"`{re.escape(name)}(=[^`]*)?`", text)]
    assert missing == []
