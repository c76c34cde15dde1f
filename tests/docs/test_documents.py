"""Every block of the README and of the guide does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from docs.blocks import ROOT, Block, blocks_of, commands_in, say, shape
from docs.embedding import require_embedding_model
from endpoints import MisbehavingEndpoint
from sage.flow import StepOptions

DOCUMENTS = ("README.md", "docs/guide.md", "docs/queues.md", "docs/durability.md")
URL = "http://127.0.0.1:8001"
"""The endpoint of the documents, in whose place a test server stands."""
SHOWN_ELSEWHERE = ("sage queue list",)
"""Commands that say something else on every machine."""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document(name: str, tmp_path: Path) -> None:
    require_embedding_model()
    (tmp_path / "data").symlink_to(ROOT / "data")
    names: dict[str, Any] = {"__name__": Path(name).stem}
    with MisbehavingEndpoint() as endpoint:
        for block in blocks_of(ROOT / name):
            run(block, tmp_path, names, endpoint)


def run(block: Block, folder: Path, names: dict[str, Any], endpoint: MisbehavingEndpoint) -> None:
    if block.order == "file":
        (folder / block.about).write_text(block.text.replace(URL, endpoint.url))
    elif block.order == "not run":
        return
    elif block.language == "python":
        exec(compile(block.text.replace(URL, endpoint.url), block.place, "exec", dont_inherit=True), names)
    elif block.language == "console":
        for command, shown in commands_in(block):
            said = say(command, folder, {"COLUMNS": "100"})
            if shown and command not in SHOWN_ELSEWHERE:
                assert shape(said) == shape(shown), f"{block.place}, {command} says\n{said}"
    else:
        pytest.fail(f"{block.place}: nobody runs this block; give it a comment that says why")


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(document: str) -> None:
    file = ROOT / document
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", file.read_text()) if "://" not in target]
    missing = [target for target in targets if not (file.parent / target.partition("#")[0]).exists()]
    assert missing == []


def test_every_option_is_in_the_readme() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| .+ \| .+ \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(StepOptions.__annotations__)
