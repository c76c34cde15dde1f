"""``sage cluster``: a cluster that outlives the command that started it, until it is taken down."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import MARKS

from cli.command_line import environment, sage
from conftest import Wait
from sage.cli.main import main
from sage.cluster.sessions import members

pytestmark = MARKS
PROGRAM = "import os; print(os.environ['RAY_ADDRESS'], os.environ['RAY_AUTH_MODE'])"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A data folder of the test's own."""
    return environment(SAGE_DATA_DIR=str(tmp_path / "data"), PYTHONWARNINGS=None)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for commands that run in this process."""
    monkeypatch.setenv("SAGE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def status(tmp_path: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sage("cluster", "status", "--json", cwd=tmp_path, env=env).stdout)[
        "clusters"
    ]
    return found


def test_up_and_down(tmp_path: Path, env: dict[str, str], wait_until: Wait) -> None:
    up = ("cluster", "up", "--nodes=2", "--cpus=3", "--store-mb=80", "--name=try")
    done = sage(*up, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    try:
        (found,) = status(tmp_path, env)
        assert found["up"]
        assert [(node["name"], node["cpus"], node["state"]) for node in found["nodes"]] == [
            ("node-0", 3, "alive"),
            ("node-1", 3, "alive"),
        ]
        assert f"cluster try: {found['address']}, loopback" in done.stderr
        again = sage(*up, cwd=tmp_path, env=env)
        assert (again.returncode, again.stderr[:4]) == (9, "E835")
        inside = sage("cluster", "exec", "--", sys.executable, "-c", PROGRAM, cwd=tmp_path, env=env)
        assert inside.stdout == f"{found['address']} token\n"
        leader = found["nodes"][1]["pids"][0]
        os.kill(leader, signal.SIGKILL)
        wait_until(lambda: not members([leader]))
        (found,) = status(tmp_path, env)
        assert [bool(node["pids"]) for node in found["nodes"]] == [True, False]
        assert found["nodes"][1]["state"] == "dead"
    finally:
        done = sage("cluster", "down", cwd=tmp_path, env=env)
    assert done.stderr == "the cluster try is down: 2 nodes, and nothing of it is left\n"
    assert not members([found["nodes"][0]["pids"][0]])
    assert not Path(found["token_path"]).parent.exists()
    assert sage("cluster", "down", cwd=tmp_path, env=env).stderr == "no cluster is up\n"


def test_a_note_of_a_cluster_that_a_reboot_ended(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its numbers mean other processes by now: this one, for example."""
    folder = data / "clusters"
    folder.mkdir(parents=True)
    node = {"name": "node-0", "node_id": "0", "address": "127.0.0.1", "cpus": 1, "pid": os.getsid(0)}
    cluster = {"address": "127.0.0.1:9", "nodes": [node], "token_path": "/tmp/sage-ray-x/token", "folder": str(data)}
    note = {"name": "old", "holder": os.getpid(), "cluster": cluster, "network": "loopback", "namespaces": []}
    (folder / "old.json").write_text(json.dumps(note))
    assert main(["cluster", "status", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["clusters"]
    assert (found["name"], found["up"]) == ("old", False)
    assert main(["cluster", "exec", "true"]) == 9
    assert capsys.readouterr().err[:4] == "E836"
    assert main(["cluster", "down"]) == 0
    assert capsys.readouterr().err == "the cluster old had ended already; what was left of it is removed\n"
    assert folder.exists()
    assert main(["cluster", "down"]) == 0
    assert capsys.readouterr().err == "no cluster is up\n"


def test_a_damaged_note(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "clusters").mkdir(parents=True)
    (data / "clusters" / "bad.json").write_text("{}")
    assert main(["cluster", "status"]) == 6
    assert capsys.readouterr().err[:4] == "E680"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["up", "--nodes=0"], "E104"),
        (["up", "--nodes=-1"], "E104"),
        (["up", "--name=../x"], "E104"),
        (["up", "--name="], "E104"),
        (["up", "--latency-ms=-1"], "E104"),
        (["up", "--loss=nan"], "E104"),
        (["up", "--store-mb=1"], "E104"),
        (["exec", "true"], "E836"),
        (["exec"], "E103"),
        (["status", "--name=nobody"], "E836"),
        (["upp"], "E101"),
    ],
)
def test_bad_input(data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: str) -> None:
    assert main(["cluster", *arguments]) in (2, 9)
    assert capsys.readouterr().err[:4] == code
    assert not data.exists()
