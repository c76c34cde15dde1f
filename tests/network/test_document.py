"""Every block of docs/laboratory.md does what it says."""

from typing import Any

import pytest

from docs.blocks import ROOT, blocks_of


@pytest.mark.root
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("laboratory")
def test_the_examples_run() -> None:
    names: dict[str, Any] = {"__name__": "laboratory"}
    blocks = [block for block in blocks_of(ROOT / "docs" / "laboratory.md") if block.language == "python"]
    for block in blocks:
        exec(compile(block.text, block.place, "exec"), names)
    assert len(blocks) == 3
