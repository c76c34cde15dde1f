"""``sage run``: what it executes, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from cli.command_line import SAGE, environment, sage, write_pipeline
from patience import DEADLINE_S

FLOW = (
    "from dataclasses import dataclass",
    "@dataclass",
    "class Half:",
    "    by: int = 2",
    "    def __call__(self, number):",
    "        if number % 5 == 4: raise ValueError('not this one')",
    "        return number // self.by",
    "pipeline = sage.Pipeline('halves')",
    "pipeline.read(Items(range(20))).map(Half(), concurrency=2).write(JsonLines('halves.jsonl'))",
)


def test_the_end_says_what_became_of_everything(tmp_path: Path) -> None:
    write_pipeline(tmp_path, FLOW)
    done = sage("run", "flow.py", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == ""
    assert "halves: SUCCEEDED_WITH_DEAD_LETTERS in " in done.stderr
    assert "read 20 = written 16 + dead-lettered 4 + filtered 0" in done.stderr
    assert "written to halves.jsonl" in done.stderr
    assert "sage dead-letters list halves.dead.jsonl" in done.stderr
    assert "4 at Half: ValueError: not this one" in done.stderr


def test_a_pipeline_is_tried_with_its_first_records(tmp_path: Path) -> None:
    write_pipeline(tmp_path, FLOW)
    assert "read 7 = written 6 + dead-lettered 1" in sage("run", "flow.py", "--first", "7", cwd=tmp_path).stderr
    assert sage("run", "flow.py", "--first", "0", cwd=tmp_path).stderr.startswith("E104 bad number at --first")


def test_a_run_that_never_began_has_no_figures(tmp_path: Path) -> None:
    write_pipeline(tmp_path, [*FLOW[:4], "    def open(self, context): raise OSError('no')", *FLOW[4:]])
    said = sage("run", "flow.py", cwd=tmp_path).stderr
    assert "halves: FAILED in " in said
    assert "rate/s" not in said


def test_dead_letters_can_fail_a_run(tmp_path: Path) -> None:
    write_pipeline(tmp_path, FLOW)
    assert sage("run", "flow.py", "--fail-on-dead-letters", cwd=tmp_path).returncode == 8
    too_many = sage("run", "flow.py", "--max-dead-letters", "3", "--dead-letters", "other.jsonl", cwd=tmp_path)
    assert too_many.returncode == 6
    assert too_many.stderr.splitlines()[-1].startswith("E652 more than 3 dead letters at other.jsonl")
    assert too_many.stderr.count("E652") == 1
    assert len((tmp_path / "halves.jsonl").read_text().splitlines()) == 16, "the output of the first run was replaced"


def test_json_is_all_there_is_on_standard_output(tmp_path: Path) -> None:
    write_pipeline(tmp_path, [*FLOW, "print('chatter')"])
    done = sage("run", "flow.py", "--json", "--quiet", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert result["status"] == "SUCCEEDED_WITH_DEAD_LETTERS"
    assert result["account"]["read"] == 20
    assert [step["received"] for step in result["steps"]] == [20, 20, 16]
    assert (result["dead_letters"], result["outputs"]) == ("halves.dead.jsonl", ["halves.jsonl"])
    assert done.stderr == "chatter\n"


def test_json_of_a_run_that_fails_or_does_not_begin(tmp_path: Path) -> None:
    flow = [line.replace(", concurrency=2", ", on_error='fail'") for line in FLOW]
    write_pipeline(tmp_path, flow)
    failed = sage("run", "flow.py", "--json", cwd=tmp_path)
    assert failed.returncode == 3
    assert json.loads(failed.stdout)["status"] == "FAILED"
    assert json.loads(failed.stdout)["error"]["code"] == "E411"
    write_pipeline(tmp_path, ["pipeline = sage.Pipeline('empty')"])
    refused = sage("run", "flow.py", "--json", cwd=tmp_path)
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["error"]["code"] == "E210"


@pytest.mark.parametrize("guard", ["if True:", 'if __name__ == "__main__":'])
def test_a_file_that_runs_itself_runs_once_and_gets_the_result(tmp_path: Path, guard: str) -> None:
    body = [
        *FLOW,
        guard,
        "    result = sage.run(pipeline, append=True)",
        "    print(sys.argv[1:], result.account.written)",
    ]
    write_pipeline(tmp_path, body)
    done = sage("run", "flow.py", "--quiet", "--dead-letters", "d.jsonl", "--", "--own", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['--own', 'x'] 16\n", "")
    assert (tmp_path / "d.jsonl").exists()
    assert sage("run", "flow.py", "--quiet", cwd=tmp_path).returncode == 0
    assert len((tmp_path / "halves.jsonl").read_text().splitlines()) == 32
    other = sage("run", "flow.py", "--pipeline", "thirds", cwd=tmp_path)
    assert (other.returncode, other.stderr[:4]) == (2, "E126")


def test_a_file_may_catch_the_error_of_its_run(tmp_path: Path) -> None:
    flow = [line.replace(", concurrency=2", ", on_error='fail'") for line in FLOW]
    write_pipeline(
        tmp_path, [*flow, "try:", "    sage.run(pipeline)", "except sage.SageError as error:", "    print(error.code)"]
    )
    done = sage("run", "flow.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "E411\n")


def test_the_exit_code_of_the_file_is_kept(tmp_path: Path) -> None:
    write_pipeline(tmp_path, ["sys.exit(17)"])
    assert sage("run", "flow.py", cwd=tmp_path).returncode == 17


def test_modules_beside_the_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside.py").write_text("def twice(n):\n    return 2 * n\n")
    body = ["from beside import twice", "p = sage.Pipeline('p')", "p.read(Items([3])).map(twice).write(Stdout())"]
    write_pipeline(tmp_path / "sub", body)
    assert sage("run", "sub/flow.py", cwd=tmp_path).stdout == "6\n"


def test_sources_and_sinks_decide_the_exit_code(tmp_path: Path) -> None:
    write_pipeline(tmp_path, ["p = sage.Pipeline('p')", "p.read(JsonLines('none.jsonl')).write(Stdout())"])
    assert sage("run", "flow.py", cwd=tmp_path).returncode == 4
    write_pipeline(tmp_path, ["p = sage.Pipeline('p')", "p.read(Items([1])).write(JsonLines('no/folder.jsonl'))"])
    done = sage("run", "flow.py", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)


@pytest.mark.parametrize(("term", "columns"), [("xterm-256color", 80), ("xterm", 140), ("dumb", 80), (None, 80)])
def test_on_a_terminal_the_table_fits(tmp_path: Path, term: str | None, columns: int) -> None:
    body = [
        "async def wait(n):",
        "    import asyncio",
        "    await asyncio.sleep(0.5)",
        "    return n",
        "pipeline = sage.Pipeline('terminal')",
        "pipeline.read(Items(range(100))).map(wait, name='a-step-with-a-rather-long-name').write(JsonLines('o.jsonl'))",
    ]
    write_pipeline(tmp_path, body)
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", str(columns), "rows", "30"], stdin=theirs, check=True)
    with subprocess.Popen(
        [*SAGE, "run", "flow.py"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=environment(TERM=term, COLUMNS=None, LINES=None),
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = _all_of(ours)
        assert process.wait(DEADLINE_S) == 0
    assert "Traceback" not in shown
    assert "terminal: SUCCEEDED" in shown
    assert ("\x1b[" in shown) == (term != "dumb"), "the table that is drawn again"
    table = [line for line in shown.splitlines() if "write-JsonLines" in line or "rate/s" in line]
    assert table
    assert all(len(line.replace("\x1b[2K", "").rstrip()) <= columns for line in table if "\x1b[" not in line)


def _all_of(terminal: int) -> str:
    data = b""
    try:
        while part := os.read(terminal, 65_536):
            data += part
    except OSError:  # how Linux says that nobody is at the other end
        pass
    os.close(terminal)
    return data.decode()
