"""``sage endpoint simulate``."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path

import pytest

from cli.command_line import Running, sage_here
from sage.llm.simulated import PROFILES


def test_it_says_where_and_what_it_is_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with Running("endpoint", "simulate", "--profile", "tiny", "--port", "0", cwd=tmp_path) as running:
        running.wait_for("simulated, no GPU: tiny")
        url = running.lines[0].strip()
        with urllib.request.urlopen(f"{url}/models") as answer:
            assert json.load(answer)["data"][0]["id"] == "tiny-model"
            assert answer.headers["X-SAGE-Simulated"] == "tiny"
        running.interrupt()
        code, said = running.end()
    assert code == 0
    assert said.endswith("stopped\n")


def test_a_supervisor_can_end_it_too(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary-key\n")
    options = ("--profile", "tiny", "--port", "0", "--api-key", "@key", "--fault", "500@0.5", "--max-num-seqs", "3")
    with Running("endpoint", "simulate", *options, cwd=tmp_path) as running:
        running.wait_for("3 requests at once")
        request = urllib.request.Request(
            f"{running.lines[0].strip()}/models", headers={"Authorization": "Bearer canary-key"}
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
        running.process.send_signal(signal.SIGTERM)
        code, said = running.end()
    assert code == 0
    assert "canary-key" not in said


def test_profiles_are_listed(tmp_path: Path) -> None:
    listed = sage_here("endpoint", "simulate", "--list-profiles", cwd=tmp_path).stdout
    assert [line.partition(":")[0] for line in listed.splitlines()] == list(PROFILES)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--profile", "b300"], 2, "E104"),
        (["--port", "70000"], 2, "E104"),
        (["--port", "-1"], 2, "E104"),
        (["--fault", "500@2"], 2, "E104"),
        (["--fault", "nonsense"], 2, "E104"),
        (["--api-key", "@missing"], 2, "E120"),
        (["--max-num-seqs", "0"], 3, "E242"),
        (["--host", "0.0.0.0", "--port", "0"], 3, "E247"),
        (["--host", "192.0.2.1", "--api-key", "k", "--port", "0"], 3, "E248"),
    ],
)
def test_what_cannot_be(arguments: list[str], code: int, word: str, tmp_path: Path) -> None:
    done = sage_here("endpoint", "simulate", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(word)
