"""``sage doctor`` and ``sage version``."""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli.command_line import environment, sage
from endpoints import MisbehavingEndpoint
from sage.cli import checks


def findings(cwd: Path, env: Mapping[str, str]) -> tuple[int, dict[str, dict[str, str]]]:
    done = sage("doctor", "--json", cwd=cwd, env=env)
    assert done.stderr == ""
    return done.returncode, {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_sound_machine(tmp_path: Path) -> None:
    code, found = findings(tmp_path, environment(SAGE_DATA_DIR=str(tmp_path / "data")))
    assert code == 0
    assert {"python", "shared memory", "ports", "clock", "open files", "output", "data folder"} <= found.keys()
    assert found["embedding model"]["level"] == "warn"
    assert found["embedding model"]["try"] == "sage rag model install"
    assert not (tmp_path / "data").exists(), "nothing is left behind"
    shown = sage("doctor", cwd=tmp_path, env=environment(SAGE_DATA_DIR=str(tmp_path / "data")))
    assert shown.stdout.splitlines()[-1].startswith("ready")


def test_an_endpoint_that_answers_and_one_that_does_not(tmp_path: Path) -> None:
    with MisbehavingEndpoint() as endpoint:
        code, found = findings(tmp_path, environment(SAGE_LLM_URL=endpoint.url, SAGE_LLM_KEY="canary-key"))
        assert (code, found["LLM endpoint"]["level"]) == (0, "ok")
        assert "canary-key" not in json.dumps(found)
    code, found = findings(tmp_path, environment(SAGE_LLM_URL=endpoint.url, SAGE_LLM_KEY="canary-key"))
    assert (code, found["LLM endpoint"]["level"]) == (3, "fail")
    assert "canary-key" not in json.dumps(found)


def test_the_port_that_is_recommended_for_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        busy, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        monkeypatch.setattr(checks, "LLM_PORTS", (busy, free))
        assert checks.recommended_port() == free
        monkeypatch.setattr(checks, "LLM_PORTS", (free, busy))
        assert checks.recommended_port() == free
        monkeypatch.setattr(platform, "release", lambda: "5.15.90.1-microsoft-standard-WSL2")
        assert checks.recommended_port() == busy
        assert f"use {busy}" in checks.ports().found


def test_settings_that_are_wrong_and_a_data_folder_that_cannot_be(tmp_path: Path) -> None:
    code, found = findings(tmp_path, environment(SAGE_LLM_URL="ftp://x"))
    assert (code, found["settings"]["level"]) == (3, "fail")
    (tmp_path / "file").touch()
    code, found = findings(tmp_path, environment(SAGE_DATA_DIR=str(tmp_path / "file" / "data")))
    assert (code, found["data folder"]["level"]) == (3, "fail")


def test_version(tmp_path: Path) -> None:
    assert sage("version", cwd=tmp_path).stdout.startswith("sage 0.")
    assert sage("--version", cwd=tmp_path).stdout.startswith("sage 0.")
