"""Ctrl-C: once stops cleanly, twice ends it at once."""

from __future__ import annotations

import json
from pathlib import Path

from cli.command_line import Running, write_pipeline


def test_once_finishes_what_is_in_flight_and_puts_the_output_aside(tmp_path: Path) -> None:
    write_pipeline(
        tmp_path,
        [
            "def tell(number):",
            "    if number == 1000:",
            "        print('working', flush=True)",
            "    return {'number': number}",
            "pipeline = sage.Pipeline('endless')",
            "pipeline.read(Items(itertools.count())).map(tell).write(JsonLines('out.jsonl'))",
        ],
    )
    (tmp_path / "out.jsonl").write_text("of yesterday\n")
    with Running("run", "flow.py", cwd=tmp_path) as run:
        run.wait_for("working")
        run.interrupt()
        code, said = run.end()
    assert code == 130
    assert "stopped" in said or "CANCELLED" in said
    assert "out.jsonl.partial" in said
    assert "unfinished" not in said
    assert (tmp_path / "out.jsonl").read_text() == "of yesterday\n"
    numbers = [json.loads(line)["number"] for line in (tmp_path / "out.jsonl.partial").read_text().splitlines()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 1000
    assert f"read {len(numbers):,} = written {len(numbers):,} " in said


def test_twice_ends_an_operator_that_does_not_return(tmp_path: Path) -> None:
    write_pipeline(
        tmp_path,
        [
            "def stuck(number):",
            "    print('stuck', flush=True)",
            "    time.sleep(3600)",
            "pipeline = sage.Pipeline('stuck')",
            "pipeline.read(Items([1, 2])).map(stuck).write(JsonLines('out.jsonl'))",
        ],
    )
    with Running("run", "flow.py", cwd=tmp_path) as run:
        run.wait_for("stuck")
        run.interrupt()
        run.wait_for("stopping: finishing what is in flight (Ctrl-C again to end at once)")
        run.interrupt()
        code, said = run.end()
    assert code == 130
    assert "stuck: CANCELLED" in said
    assert "unfinished 2" in said
    assert not (tmp_path / "out.jsonl").exists()


def test_while_the_file_is_still_being_executed(tmp_path: Path) -> None:
    write_pipeline(tmp_path, ["print('executing', flush=True)", "time.sleep(3600)"])
    with Running("run", "flow.py", cwd=tmp_path) as run:
        run.wait_for("executing")
        run.interrupt()
        assert run.end() == (130, "executing\ninterrupted\n")
