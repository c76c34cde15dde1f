"""``sage bench`` and ``sage simulate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import sage

from sage.cli.main import main


def test_simulate_says_where_the_next_bottleneck_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--nodes", "24", "--records", "200", "--endpoints", "1..2", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["endpoints"] for row in rows] == [1, 2]
    assert rows[0]["bottleneck"] == "endpoints"
    assert rows[1]["records_per_s"] > rows[0]["records_per_s"]
    assert all(row["virtual_time"] for row in rows)


def test_simulate_tells_the_next_bottleneck_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--nodes", "4", "--records", "60", "--endpoints", "1..2"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "bottleneck" in last


def test_virtual_time_is_not_validated_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--validate", "--on", "virtual"]) == 2
    assert "E104 virtual time says nothing of itself" in capsys.readouterr().err


def test_bench_writes_results_and_says_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "bench.toml"
    config.write_text('tasks = 30\nrepeat = 1\npipeline = "compute"\nnodes = [1, 2]\n')
    command = ["bench", "scaling", "--config", str(config), "--results", str(tmp_path / "results"), "--quiet"]
    assert main(command) == 0
    assert "Node scaling: virtual time, simulated endpoint" in capsys.readouterr().out
    assert (tmp_path / "results" / "scaling" / "report.html").exists()
    assert main([*command, "--resume", "--seed", "9"]) == 2
    assert "E150 these results are of another version, or of other options" in capsys.readouterr().err


def test_queues_are_verified(tmp_path: Path) -> None:
    done = sage("bench", "queue", "--verify", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    assert all(line.startswith("passed  ") for line in lines if "quicker" not in line)
    assert done.returncode == (0 if all(line.startswith("passed") for line in lines) else 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "nope"], "E151 there is no such experiment: got nope, expected scaling, load"),
        (["bench", "scaling", "--nodes", "0"], "E104 bad number at --nodes"),
        (["bench", "scaling", "--nodes", "1,,2"], "E104 bad numbers of nodes"),
        (["bench", "scaling", "--pipeline", "nope"], "E104 there is no such pipeline"),
        (["bench", "scaling", "--scheduler", "nope"], "E246 there is no such scheduler"),
        (["bench", "scaling", "--cluster", "nope"], "E836 no such cluster is up"),
        (["bench", "scaling", "--verify"], "E104 only queues can be verified"),
        (["bench", "scaling", "--config", "absent.toml"], "E120"),
        (["simulate", "--nodes", "0"], "E104 bad number of nodes: got 0"),
        (["simulate", "--endpoints", "8..1"], "E104 bad number of endpoints"),
        (["simulate", "--endpoints", "0"], "E104 bad number of endpoints"),
        (["simulate", "--speeds", "quick"], "E104 bad speeds"),
        (["simulate", "--scheduler", "nope"], "E246"),
        (["simulate", "--trace", "absent.csv"], "E306 this trace cannot be read"),
        (["simulate", "--rate", "-1"], "E104 bad load"),
    ],
)
def test_bad_input_is_told(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in {2, 3, 4, 9}
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
