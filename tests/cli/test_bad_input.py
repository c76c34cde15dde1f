"""Whatever is typed: one line that says what is wrong, exit code 2, no traceback."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from cli.command_line import SAGE, environment, sage, write_pipeline
from patience import DEADLINE_S
from sage.cli.main import main
from sage.cli.near_miss import meant

SQUARES = (
    'pipeline = sage.Pipeline("squares")',
    "pipeline.read(Items(range(4))).map(lambda n: n * n).write(JsonLines('squares.jsonl'))",
)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line that `sage` says to `arguments`, which it refuses."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.rstrip("\n").splitlines()[-1]
    assert re.match(r"E1\d\d ", last), said.err
    assert "Traceback" not in said.err
    return last


def test_no_command_shows_the_help_and_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "Commands:" in said
    assert said.endswith("E100 no command was given at sage. Try: sage run FILE\n")


def test_a_near_miss_of_a_command_or_an_option_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "rnu", "x.py").endswith("Try: sage run")
    assert refused(capsys, "run", "x.py", "--quite").endswith("Try: --quiet")
    assert refused(capsys, "dead-letters", "lits", "x").endswith("Try: sage dead-letters list")
    assert refused(capsys, "run", "x.py", "--utterly-else").endswith("Try: sage run --help")


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "run").startswith("E103 FILE is missing at sage run")
    assert "--max-dead-letters" in refused(capsys, "run", "x.py", "--max-dead-letters")
    assert refused(capsys, "dead-letters").startswith("E100 missing command at sage dead-letters")


@pytest.mark.parametrize("number", ["-1", "1e99", "NaN", "", "3.5", "1_000", "\u0663", "0x10", " 1", "9" * 10_000])
def test_only_plain_numbers_are_counts(capsys: pytest.CaptureFixture[str], number: str) -> None:
    line = refused(capsys, "run", "x.py", "--max-dead-letters", number)
    assert line.startswith("E104 bad number at --max-dead-letters: got ")
    assert len(line) < 400


def test_zero_is_a_count(tmp_path: Path) -> None:
    write_pipeline(tmp_path, SQUARES)
    assert sage("run", "flow.py", "--max-dead-letters", "0", cwd=tmp_path).returncode == 0


def test_other_engines_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "got spark, expected local" in refused(capsys, "run", "x.py", "--engine", "spark")


def test_an_argument_of_10000_characters_is_shown_short(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["run", "x" * 10_000],
        ["y" * 10_000],
        ["run", "--" + "z" * 10_000],
        ["run", "x.py", "--engine", "e" * 9999],
    ):
        assert len(refused(capsys, *arguments)) < 700


def test_control_characters_are_not_passed_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["run", "a\x1b[2Jb\n.py"],
        ["a\x1b[2Jb\nc"],
        ["run", "x.py", "--\x1b[2J"],
        ["run", "x.py", "--quiet=\x1b["],
    ):
        assert "\x1b" not in refused(capsys, *arguments)


def test_bytes_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    for arguments in ((b"run", b"caf\xe9.py"), (b"caf\xe9",), (b"run", b"x.py", b"--pipeline", b"\xff", b"--\xe9")):
        done = sage(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "\\udc" in done.stderr


def test_a_file_that_is_not_there_and_the_one_that_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pipeline(tmp_path, SQUARES, "questions.py")
    write_pipeline(tmp_path, SQUARES, "answers.py")
    assert refused(capsys, "run", "qestions.py").endswith("got qestions.py. Try: questions.py")
    assert refused(capsys, "run", "questions.py/x.py").startswith("E120 there is no such file")
    assert refused(capsys, "run", "").startswith("E120 there is no such file at FILE: got nothing")


def test_what_is_no_python_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pipeline(tmp_path, SQUARES)
    (tmp_path / "folder.py").mkdir()
    os.mkfifo("pipe.py")
    Path("nowhere.py").symlink_to("gone.py")
    Path("loop.py").symlink_to("loop.py")
    Path("data.jsonl").write_text('{"a": 1}\n')
    Path("binary.py").write_bytes(b"\0\1\2")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.py")
    assert refused(capsys, "run", ".").endswith("Try: ./binary.py")
    assert refused(capsys, "run", "folder.py").startswith("E121 this is a folder")
    assert refused(capsys, "run", "pipe.py").startswith("E122 this is not a regular file")
    assert refused(capsys, "run", "socket.py").startswith("E122 this is not a regular file")
    assert "E120 the link points to nothing at FILE: got nowhere.py -> gone.py" in refused(capsys, "run", "nowhere.py")
    assert refused(capsys, "run", "loop.py").startswith("E123 the file cannot be read (too many levels")
    assert refused(capsys, "run", "data.jsonl").startswith("E124 this is not a Python file")
    assert refused(capsys, "run", "binary.py").startswith("E124 this is not a Python file")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    write_pipeline(tmp_path, SQUARES).chmod(0)
    as_others = ["setpriv", "--bounding-set", "-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*as_others, *SAGE, "run", "flow.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.stderr.startswith("E123 the file cannot be read (permission denied)")
    assert done.returncode == 2


def test_a_file_without_a_pipeline_or_with_several(tmp_path: Path) -> None:
    write_pipeline(tmp_path, [], "none.py")
    several = ['a = sage.Pipeline("first")', 'b = sage.Pipeline("second")', "for p in (a, b):"]
    several.append("    p.read(Items([1])).write(JsonLines(p.name + '.jsonl'))")
    write_pipeline(tmp_path, several, "two.py")
    none = sage("run", "none.py", cwd=tmp_path)
    assert (none.returncode, none.stderr[:4]) == (2, "E125")
    both = sage("run", "two.py", cwd=tmp_path)
    assert both.returncode == 2
    assert "got first, second. Try: --pipeline first" in both.stderr
    wrong = sage("run", "two.py", "--pipeline", "secnd", cwd=tmp_path)
    assert wrong.stderr.endswith("got secnd, expected first, second. Try: --pipeline second\n")
    assert sage("run", "two.py", "--pipeline", "second", cwd=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["second.jsonl"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("raise ValueError('no luck')", "E250 the file raised an error at flow.py:5: got ValueError('no luck')"),
        ("import no_such_module", "E250 the file raised an error at flow.py:5: got ModuleNotFoundError("),
        ("sage.Pipeline('p').reed(1)", "E250 the file raised an error at flow.py:5: got AttributeError("),
        ("def broken(:", "E251 the file is not valid Python at flow.py:5: got invalid syntax"),
        ("sage.Pipeline('p').read(Items('text'))", "E217 Items needs an iterable"),
        (
            "class E(Exception):\n  def __str__(self): raise ValueError\nraise E",
            "E250 the file raised an error at flow.py:7",
        ),
    ],
)
def test_errors_of_the_file_name_its_line(tmp_path: Path, line: str, says: str) -> None:
    write_pipeline(tmp_path, [line])
    done = sage("run", "flow.py", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(says), done.stderr


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("from sage import CSV", "from sage.connectors import Csv"),
        ("from sage.connectors import Generate", "from sage.rag import Generate"),
        ("import sage; sage.Pipline", "from sage import Pipeline"),
        ("import sage; sage.Pipeline('p').reads", ".read"),
        ("from sage import nothing_of_the_kind", None),
        ("from json import lods", None),
        ("''.splitt", None),
        ("1 / 0", None),
    ],
)
def test_what_was_probably_meant(line: str, suggestion: str | None) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 -- each line raises its own
        exec(line, {})
    assert meant(raised.value) == suggestion


def test_the_traceback_is_there_when_asked_for(tmp_path: Path) -> None:
    write_pipeline(tmp_path, ["raise ValueError('no luck')"])
    for arguments, env in (
        (["run", "flow.py", "--debug"], environment()),
        (["run", "flow.py"], environment(SAGE_DEBUG="1")),
    ):
        done = subprocess.run(
            [*SAGE, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 3
        assert done.stderr.startswith("E250")
        assert "Traceback" in done.stderr
        assert 'flow.py", line 5' in done.stderr


@pytest.mark.parametrize("closing", ["<&-", ">&- 2>&-"])
def test_closed_standard_streams(tmp_path: Path, closing: str) -> None:
    write_pipeline(tmp_path, SQUARES)
    for arguments, code in ((["run", "flow.py"], 0), (["version"], 0), (["run", "nothing.py"], 2)):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closing}', "sh", *SAGE, *arguments], cwd=tmp_path, env=environment(),
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_without_home_term_or_locale(tmp_path: Path) -> None:
    write_pipeline(tmp_path, SQUARES)
    bare = {"PATH": os.environ["PATH"]}
    assert sage("run", "flow.py", cwd=tmp_path, env=bare).returncode == 0
    assert sage("--help", cwd=tmp_path, env={**bare, "LC_ALL": "C"}).returncode == 0


def test_a_settings_file_that_is_broken_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "sage.toml").write_text("debug = {")
    done = sage("run", "nothing.py", cwd=tmp_path)
    assert (done.returncode, done.stderr[:4]) == (2, "E120")


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    write_pipeline(
        tmp_path,
        [
            "pipeline = sage.Pipeline('flood')",
            "pipeline.read(Items(range(200_000))).write(Stdout())",
        ],
    )
    for command, code in (("--help", 141), ("run flow.py", 5)):
        done = subprocess.run(
            ["bash", "-c", f'"$@" {command} | true; exit ${{PIPESTATUS[0]}}', "bash", *SAGE], cwd=tmp_path,
            env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.returncode in (code, 0)
    assert "E557 nobody reads the output any more" in done.stderr


def test_nobody_reads_what_is_said(tmp_path: Path) -> None:
    body = [
        "pipeline = sage.Pipeline('told')",
        "pipeline.read(Items(range(250))).write(JsonLines('told.jsonl'))",
    ]
    write_pipeline(tmp_path, body)
    done = subprocess.run(
        ["bash", "-c", '"$@" 2> >(true); exit $?', "bash", *SAGE, "run", "flow.py"], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert len((tmp_path / "told.jsonl").read_text().splitlines()) == 250


def test_a_defect_is_told_as_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.cli.version.platform.machine", lambda: 1 / 0)
    assert main(["version"]) == 70
    assert capsys.readouterr().err.startswith("E990 internal error: ZeroDivisionError")
