"""docs/jobs.md does what it says."""

from pathlib import Path

from cli.command_line import environment
from docs.blocks import ROOT, blocks_of, commands_in, say
from jobs.managers import Managed
from sage.jobs.api import ROUTES


def test_its_commands(managed: Managed, tmp_path: Path) -> None:
    commands = []
    for block in blocks_of(ROOT / "docs" / "jobs.md"):
        if block.order == "file":
            (tmp_path / block.about).write_text(block.text)
        elif block.language == "console" and block.order != "not run":
            commands += [command for command, _ in commands_in(block)]
    said = say("set -e\n" + "\n".join(commands), tmp_path, environment(SAGE_DATA_DIR=str(tmp_path / "data")))
    assert said.count("squares: SUCCEEDED") == 2
    assert "read 1,000 = written 1,000" in said
    assert said.endswith("the job manager has stopped; jobs that run go on\n")
    assert len((tmp_path / "squares.jsonl").read_text().splitlines()) == 1000


def test_it_names_every_route() -> None:
    text = (ROOT / "docs" / "jobs.md").read_text()
    last = {route.path.rpartition("/")[2] for route in ROUTES} - {"{id}"}
    assert {name for name in last if f"/{name}" not in text} == set()
