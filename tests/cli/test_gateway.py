"""``sage gateway`` and ``sage usage``."""

from __future__ import annotations

import json
import resource
import signal
import urllib.request
from pathlib import Path

import pytest

from cli.command_line import Running, sage, sage_here
from sage.llm.simulated import SimulatedEndpoint


def test_from_a_configuration_to_the_tokens_used(tmp_path: Path) -> None:
    made = sage("gateway", "--new-key", "alice", cwd=tmp_path)
    key = made.stdout.strip()
    entry = made.stderr[made.stderr.index("[[key]]") :]
    assert key not in entry
    with SimulatedEndpoint("tiny") as endpoint:
        (tmp_path / "gateway.toml").write_text(
            f'usage_file = "usage.sqlite"\n[[endpoint]]\nurl = "{endpoint.url}"\n{entry}'
        )
        with Running("gateway", "--config", "gateway.toml", "--port", "0", cwd=tmp_path) as running:
            running.wait_for("usage is written to")
            request = urllib.request.Request(
                f"{running.lines[0].strip()}/chat/completions",
                json.dumps(
                    {"model": "tiny-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
                ).encode(),
                {"Authorization": f"Bearer {key}", "X-SAGE-Job": "nightly"},
            )
            with urllib.request.urlopen(request) as answer:
                usage = json.load(answer)["usage"]
            _, most_bytes = resource.prlimit(running.process.pid, resource.RLIMIT_CORE)
            assert most_bytes in (0, 1)  # no image of what holds keys, whoever crashes it
            running.process.send_signal(signal.SIGTERM)
            code, said = running.end()
    assert code == 0
    assert key not in said
    assert (tmp_path / "usage.sqlite").stat().st_mode & 0o077 == 0
    told = sage("usage", "--file", "usage.sqlite", "--by", "key,job", "--json", cwd=tmp_path)
    assert json.loads(told.stdout) == {
        "key": "alice", "job": "nightly", "requests": 1, "failed": 0, "estimated_tokens": 0,
        "prompt_tokens": usage["prompt_tokens"], "completion_tokens": 3, "reused_tokens": 0,
    }  # fmt: skip
    table = sage("usage", "--file", "usage.sqlite", cwd=tmp_path).stdout.splitlines()
    assert table[0].split()[:2] == ["key", "model"]
    assert table[1].split()[:3] == ["alice", "tiny-model", "1"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["gateway"], 2, "E103"),
        (["gateway", "--endpoint", "ftp://x"], 3, "E242"),
        (["gateway", "--endpoint", "http://x", "--port", "70000"], 2, "E104"),
        (["gateway", "--endpoint", "http://x", "--host", "0.0.0.0"], 3, "E247"),
        (["gateway", "--config", "missing.toml"], 2, "E120"),
        (["gateway", "--new-key", "a b"], 3, "E242"),
        (["usage", "--file", "missing.sqlite"], 2, "E120"),
        (["usage", "--file", "strange.sqlite"], 6, "E670"),
        (["usage", "--by", "colour", "--file", "strange.sqlite"], 2, "E104"),
    ],
)
def test_what_cannot_be_done(arguments: list[str], code: int, word: str, tmp_path: Path) -> None:
    (tmp_path / "strange.sqlite").write_text("not a database")
    done = sage_here(*arguments, cwd=tmp_path)
    assert (done.returncode, word in done.stderr) == (code, True), done.stderr


def test_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    done = sage("gateway", "--endpoint", "http://127.0.0.1:9", cwd=tmp_path)
    assert (done.returncode, "E701" in done.stderr) == (7, True), done.stderr
