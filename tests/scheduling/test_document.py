"""docs/scheduling.md does what it says, and names every policy."""

import re

import pytest

from docs.blocks import ROOT, blocks_of
from sage.scheduling import names, scheduler

PAGE = ROOT / "docs" / "scheduling.md"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page registers is known to this test only."""
    monkeypatch.setattr(scheduler, "_KINDS", dict(scheduler._KINDS))


def test_its_blocks() -> None:
    (block,) = [block for block in blocks_of(PAGE) if block.language == "python"]
    exec(compile(block.text, block.place, "exec"), {"__name__": "page"})
    assert "least_given" in names()


def test_every_policy_has_its_law() -> None:
    rows = re.findall(r"^\| (`.+?) \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(names())
