"""``sage dead-letters``: listed, shown, mended, replayed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from cli.command_line import Running, sage, write_pipeline
from sage.cli.reasons import kinds_of, told

FLOW = (
    "from pathlib import Path",
    "def twice(n): return [n, n]",
    "def fragile(n):",
    "    if n == 3 and not Path('mended').exists(): raise ValueError('three')",
    "    return n",
    "def picky(n):",
    "    if n == 4 and not Path('mended-too').exists(): raise ValueError('four')",
    "    return n",
    "pipeline = sage.Pipeline('flow')",
    "s = pipeline.read(JsonLines('in.jsonl')).flat_map(twice).map(fragile).map(picky)",
    "s.write(JsonLines('out.jsonl'))",
)
DEAD = "flow.dead.jsonl"


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """A folder in which a run has left five dead letters of three steps, and six records written."""
    (tmp_path / "in.jsonl").write_text("1\n2\n3\n4\n[5\n")
    write_pipeline(tmp_path, FLOW)
    assert sage("run", "flow.py", cwd=tmp_path).returncode == 0
    assert written(tmp_path) == [1, 1, 2, 2]
    return tmp_path


def written(folder: Path) -> list[int]:
    return sorted(json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines())


def listed(folder: Path) -> list[dict[str, str]]:
    done = sage("dead-letters", "list", DEAD, "--json", cwd=folder)
    assert done.returncode == 0
    return [json.loads(line) for line in done.stdout.splitlines()]


def replay(folder: Path, *options: str, code: int = 0) -> str:
    done = sage("dead-letters", "replay", DEAD, "flow.py", *options, cwd=folder)
    assert done.returncode == code, done.stderr
    return done.stderr


def test_list_and_show(failed: Path) -> None:
    letters = listed(failed)
    assert sorted((letter["step"], letter["code"]) for letter in letters) == [
        ("fragile", "E411"), ("fragile", "E411"), ("picky", "E411"), ("picky", "E411"), ("read-JsonLines", "E401"),
    ]  # fmt: skip
    table = sage("dead-letters", "list", DEAD, cwd=failed)
    assert len(table.stdout.splitlines()) == 6
    assert "ValueError: three" in table.stdout
    shown = sage("dead-letters", "show", DEAD, letters[-1]["rid"], cwd=failed).stdout
    assert "input:     " in shown
    assert sage("dead-letters", "show", DEAD, cwd=failed).stdout.startswith(f"rid:       {letters[0]['rid']}\n")
    missing = sage("dead-letters", "show", DEAD, "no-such-rid", cwd=failed)
    assert (missing.returncode, missing.stderr[:4]) == (2, "E127")


def test_letters_are_put_together_by_step_and_reason(tmp_path: Path) -> None:
    reasons = [*["KeyError: 'a'"] * 3, "KeyError: 'b'", "E461 no text", *["E461 no key"] * 2, "E473 cut", "text"]
    lines = [json.dumps({"rid": "r", "step": "s", "reason": reason}) for reason in reasons]
    (tmp_path / DEAD).write_text("\n".join(lines))
    kinds = kinds_of(tmp_path / DEAD)
    assert [(kind.count, kind.example) for kind in kinds[:2]] == [(4, "KeyError: 'a'"), (3, "E461 no text")]
    first, second, _, rest = told(kinds, 24)
    assert [first, second, rest] == [
        "    4 at s: KeyError:...",
        "    3 at s: E461 no text",
        "    1 for other reasons",
    ]
    assert kinds_of(tmp_path / "absent.jsonl") == []


def test_letters_enter_where_they_failed_and_leave_when_they_succeed(failed: Path) -> None:
    before = {letter["rid"] for letter in listed(failed)}
    (failed / "mended").touch()
    said = replay(failed)
    assert "read 5 = written 2 + dead-lettered 3 + filtered 0" in said
    assert written(failed) == [1, 1, 2, 2, 3, 3]
    assert {letter["step"] for letter in listed(failed)} == {"picky", "read-JsonLines"}
    assert {letter["rid"] for letter in listed(failed)} < before, "rids are those of the first run"

    dead = failed / DEAD
    dead.write_text(dead.read_text().replace('"[5"', '"5"').replace('"[5\\n"', '"5"'))
    (failed / "mended-too").touch()
    said = replay(failed)
    assert "read 3 + created 1 = written 4 + dead-lettered 0" in said
    assert "no dead letter is left" in said
    assert written(failed) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert sorted(path.name for path in failed.iterdir() if "dead" in path.name or path.name[0] == ".") == []


def test_what_cannot_be_replayed_stays_as_it_is(failed: Path) -> None:
    dead = failed / DEAD
    own = dead.read_text().splitlines()
    foreign = [
        own[0].replace('"pipeline":"flow"', '"pipeline":"other"'),
        own[1].replace('"step":"', '"step":"former-'),
        own[2].replace('"replayable":true', '"replayable":false'),
        "not a letter",
    ]
    dead.write_text("\n".join([*foreign, *own]))
    for marker in ("mended", "mended-too"):
        (failed / marker).touch()
    said = replay(failed)
    assert "not replayed: 1 of pipeline 'other'" in said
    assert "which is not in the pipeline" in said
    assert "not replayed: 1 whose input could not be stored" in said
    assert "not replayed: 1 not dead letters" in said
    assert dead.read_text().splitlines()[:4] == foreign
    broken = sage("dead-letters", "list", DEAD, cwd=failed)
    assert (broken.returncode, broken.stderr[:4]) == (6, "E653")
    dead.write_text("\n".join(foreign))
    assert replay(failed, code=3).startswith("E252 no dead letter can be replayed through pipeline 'flow'")
    assert dead.read_text().splitlines() == foreign


@pytest.mark.parametrize("killed", [True, False])
def test_a_replay_that_is_killed_or_stopped_loses_nothing(failed: Path, killed: bool) -> None:
    before = (failed / DEAD).read_bytes()
    wait = """[time.sleep(0.01) for _ in iter(Path('go').exists, True)]"""
    flow = "\n".join(FLOW).replace("raise ValueError('four')", f"print('stuck', flush=True); {wait}")
    write_pipeline(failed, flow.splitlines())
    (failed / "mended").touch()
    with Running("dead-letters", "replay", DEAD, "flow.py", cwd=failed) as run:
        run.wait_for("stuck")
        second = sage("dead-letters", "replay", DEAD, "flow.py", cwd=failed)
        assert second.stderr.startswith("E654 the dead letters are being replayed already")
        if killed:
            run.process.kill()
            run.end()
        else:
            run.interrupt()
            run.wait_for("stopping")
            (failed / "go").touch()
            assert run.end()[0] == 130
    assert (failed / DEAD).read_bytes() == before
    assert written(failed) == [1, 1, 2, 2]
    (failed / "mended-too").touch()
    replay(failed)
    assert written(failed) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [letter["step"] for letter in listed(failed)] == ["read-JsonLines"]


def test_letters_that_somebody_changes_meanwhile_are_left_alone(failed: Path) -> None:
    flow = "\n".join(FLOW).replace("def fragile(n):", f"def fragile(n):\n    Path('{DEAD}').write_text('changed')")
    write_pipeline(failed, flow.splitlines())
    assert "E655 the dead letters were changed" in replay(failed, code=6)
    assert (failed / DEAD).read_text() == "changed"
    assert written(failed)[:4] == [1, 1, 2, 2]


def test_a_letter_that_is_written_twice_has_one_effect_at_an_idempotent_sink(failed: Path) -> None:
    flow = "\n".join(FLOW).replace("JsonLines('out.jsonl')", "SQLite('out.db', 'numbers')")
    flow = flow.replace("return [n, n]", "return [{'n': n}, {'n': n}]").replace("if n ==", "if n['n'] ==")
    write_pipeline(failed, ["from sage.connectors import SQLite", *flow.splitlines()])
    assert sage("run", "flow.py", cwd=failed).returncode == 0
    letters = (failed / DEAD).read_bytes()
    (failed / "mended").touch()
    for _ in range(2):  # as if it had been killed after the sink's commit, before the file was rewritten
        (failed / DEAD).write_bytes(letters)
        replay(failed)
        with closing(sqlite3.connect(failed / "out.db")) as database:
            assert database.execute("select n, count(*) from numbers group by n").fetchall() == [(1, 2), (2, 2), (3, 2)]


def test_letters_before_a_reduction_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('"a"\n"b"\n[\n')
    body: Sequence[str] = (
        "pipeline = sage.Pipeline('flow')",
        "pipeline.read(JsonLines('in.jsonl')).key_by(lambda w: w).count().write(JsonLines('out.jsonl'))",
    )
    write_pipeline(tmp_path, body)
    assert sage("run", "flow.py", cwd=tmp_path).returncode == 0
    assert "needs all records and not only these" in replay(tmp_path, code=3)
    assert len(listed(tmp_path)) == 1


def test_routes_unions_and_several_failing_steps(tmp_path: Path) -> None:
    body = (
        "from pathlib import Path",
        "def small(n):",
        "    if n == 0 and not Path('mended').exists(): raise ValueError",
        "    return n < 5",
        "async def halve(n):",
        "    if n == 8 and not Path('mended').exists(): raise ValueError",
        "    return n // 2",
        "def last(n):",
        "    if n == 1 and not Path('mended').exists(): raise ValueError",
        "    return n",
        "pipeline = sage.Pipeline('flow')",
        "branches = pipeline.read(Items(range(10))).route(small=small)",
        "both = branches.small.union(branches.otherwise.map(halve))",
        "both.order_by(lambda n: n).map(last, concurrency=3).write(JsonLines('out.jsonl'))",
    )
    write_pipeline(tmp_path, body)
    assert sage("run", "flow.py", cwd=tmp_path).returncode == 0
    assert {letter["step"] for letter in listed(tmp_path)} == {"route", "halve", "last"}
    (tmp_path / "mended").touch()
    assert "no dead letter is left" in replay(tmp_path)
    assert written(tmp_path) == sorted([0, 1, 2, 3, 4, 2, 3, 3, 4, 4])


def test_the_same_through_json_and_a_file_that_runs_itself(failed: Path) -> None:
    write_pipeline(failed, [*FLOW, "print(sage.run(pipeline).account)"])
    (failed / "mended").touch()
    done = sage("dead-letters", "replay", DEAD, "flow.py", "--json", "--quiet", cwd=failed)
    assert json.loads(done.stdout)["account"]["written"] == 2
    assert json.loads(done.stdout)["dead_letters"] == DEAD
    assert done.stderr == "read 5 = written 2 + dead-lettered 3 + filtered 0\n"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for arguments in (
        ["list", "none.jsonl"],
        ["show", "none.jsonl", "x"],
        ["replay", "none.jsonl", "x.py"],
        ["list", "."],
    ):
        done = sage("dead-letters", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("E12")
