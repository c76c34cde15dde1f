"""The page of public names tells of nothing that is not there."""

import re
from importlib import import_module

from docs.blocks import ROOT


def test_every_name_on_the_page_is_there() -> None:
    text = (ROOT / "docs" / "names.md").read_text()
    listed = [
        (module, name)
        for module, section in re.findall(r"^## (\S+)\n(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    ]
    assert len(listed) > 150
    assert [(module, name) for module, name in listed if not hasattr(import_module(module), name)] == []
