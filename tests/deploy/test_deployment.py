"""The lab's image, manifests and scripts, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import manifests
import pytest
import yaml
from image_steps import Image, instructions, is_let_through

from sage.cli.main import main
from sage.gateway.config import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted(DEPLOY.rglob("*.sh"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in KUBERNETES:
        if document["kind"] == "RayCluster":
            groups = [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]
            yield from ((group.get("groupName", "head"), group["template"]["spec"]) for group in groups)
        elif document["kind"] == "Deployment":
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def commands() -> list[list[str]]:
    """Every command of `sage` that is started somewhere in deploy/ or told in its page."""
    of_services = [service["command"] for service in SERVICES.values()]
    of_pods = [container.get("command", []) for _, pod in pods() for container in pod["containers"]]
    texts = [*SCRIPTS, ROOT / "docs" / "deployment.md"]
    lines = [line.strip().removeprefix("$ ") for path in texts for line in path.read_text().splitlines()]
    written = [shlex.split(line.rstrip("&"), comments=True) for line in lines if line.startswith("sage ")]
    return [list(map(str, each)) for each in (*of_services, *of_pods, *written) if each and each[0] == "sage"]


def test_the_image_is_pinned_checked_and_not_root() -> None:
    steps = instructions()
    bases = [rest for name, rest in steps if name == "ARG" and rest.startswith("BASE=")]
    assert all(re.fullmatch(r"BASE=\S+:\S+@sha256:[0-9a-f]{64}", base) for base in bases)
    assert {rest.split()[0] for name, rest in steps if name == "FROM"} == {"${BASE}"}
    assert [rest for name, rest in steps if name == "USER"] == ["10001:10001"]
    last = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    kinds = [name for name, _ in steps[last:]]
    assert "HEALTHCHECK" in kinds
    assert "ADD" not in kinds
    variables = [rest for name, rest in steps if name == "ENV"]
    assert not any(re.search(r"(?i)(token|key|password|secret)=\S", rest) for rest in variables)
    assert all("--require-hashes" in rest or "--no-deps" in rest for _, rest in steps if "pip install" in rest)


def test_all_that_is_copied_is_there_and_let_through(tmp_path: Path) -> None:
    image = Image(tmp_path)
    for name, rest in instructions():
        if name in ("WORKDIR", "COPY", "ENV"):
            image.do(name, rest)
    assert (tmp_path / "src" / "src" / "sage" / "cli" / "main.py").exists()
    assert (tmp_path / "opt" / "sage" / "bin" / "healthy.sh").exists()
    assert not list(tmp_path.rglob("*.pyc"))
    assert image.run("echo $RAY_AUTH_MODE $PATH").startswith(f"token {tmp_path}/opt/sage/bin:")
    assert not any(is_let_through(path) for path in ("deploy/secrets/ray_token", ".git/config", "tests/conftest.py"))


def test_steps_of_the_image_that_fail_are_told(tmp_path: Path) -> None:
    image = Image(tmp_path)
    image.do("RUN", "ln -s /opt/sage/bin/sage /usr/local/bin/")
    assert (tmp_path / "usr/local/bin/sage").readlink() == tmp_path / "opt/sage/bin/sage"
    image.do("RUN", "useradd somebody")
    assert image.left_out == ["useradd somebody"]
    with pytest.raises(subprocess.CalledProcessError):
        image.do("RUN", "false; true")


def test_a_field_that_a_schema_does_not_know_is_a_mistake(tmp_path: Path) -> None:
    properties = {"kind": {}, "apiVersion": {}, "metadata": {}, "spec": {"properties": {"size": {"type": "integer"}}}}
    versions = [{"name": "v1", "schema": {"openAPIV3Schema": {"properties": properties}}}]
    (tmp_path / manifests.RAY_CLUSTER).write_text(yaml.safe_dump({"spec": {"versions": versions}}))

    def wrong(version: str, **spec: object) -> list[str]:
        document = {"kind": "RayCluster", "apiVersion": f"ray.io/{version}", "metadata": {"name": "a"}, "spec": spec}
        return list(manifests.wrong_in_ray_cluster(document, tmp_path))

    assert wrong("v1", size=1) == []
    assert wrong("v1", size="one") == ["$.spec.size: 'one' is not of type 'integer'"]
    assert wrong("v1", sise=1) == ["$.spec: Additional properties are not allowed ('sise' was unexpected)"]
    assert wrong("v2", size=1) == ["apiVersion: v2 is no version of the schema"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_rights_and_no_secrets_in_sight(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not any(re.search("(?i)token$|key$|password", variable) for variable in service["environment"])
    assert set(service["secrets"]) <= set(COMPOSE["secrets"])
    assert all(each["condition"] == "service_healthy" for each in service.get("depends_on", {}).values())


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_pods_have_no_rights_and_limits(name: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"]
        assert container["readinessProbe"]
        assert {each["name"] for each in container["volumeMounts"]} <= {each["name"] for each in pod["volumes"]}


def test_services_of_kubernetes_find_their_pods() -> None:
    labels = {
        frozenset(document["spec"]["template"]["metadata"]["labels"].items())
        for document in KUBERNETES
        if document["kind"] == "Deployment"
    }
    selectors = {frozenset(doc["spec"]["selector"].items()) for doc in KUBERNETES if doc["kind"] == "Service"}
    assert selectors == labels


def test_ray_is_of_one_version_everywhere() -> None:
    version = KUBERNETES[0]["spec"]["rayVersion"]
    assert f"\nray=={version} " in (ROOT / "requirements" / "lab.lock").read_text()


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_exists(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = command[1:]
    options = [word for word in words if word.startswith("--")]
    group = words[: next((n for n, word in enumerate(words) if not re.fullmatch("[a-z]+", word)), len(words))]
    for depth in range(len(group), 0, -1):  # what is no command is an argument
        if main([*group[:depth], "--help"]) == 0:
            break
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: sage ")
    assert all(option.partition("=")[0] in shown for option in options)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_plain_shell(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n# ")
    assert "\nset -eu\n" in script.read_text()
    assert "ray stop" not in script.read_text()
    assert subprocess.run(["sh", "-n", script], check=False, capture_output=True).returncode == 0


def sh(script: str, *arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["sh", DEPLOY / script, *arguments], check=False, capture_output=True, text=True, env=environment, timeout=60
    )


def test_a_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    assert sh("node.sh", "worker", "head:6379", home=tmp_path).returncode == 3
    assert sh("bare/token.sh", home=tmp_path).returncode == 0
    token = tmp_path / ".ray" / "auth_token"
    assert re.fullmatch("[0-9a-f]{64}", token.read_text())
    assert token.stat().st_mode & 0o077 == 0
    again = sh("bare/token.sh", home=tmp_path)
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    assert sh("node.sh", "neither", "head:6379", home=tmp_path).returncode == 2


def test_the_secrets_of_the_lab_are_what_the_gateway_reads(tmp_path: Path) -> None:
    assert sh("secrets.sh", tmp_path / "secrets", home=tmp_path).returncode == 0
    settings = tmp_path / "secrets" / "gateway.toml"
    text = settings.read_text().replace("/run/secrets/", f"{tmp_path}/secrets/")
    settings.chmod(0o600)
    settings.write_text(text)
    config = load_config(settings)
    assert [key.name for key in config.key] == ["lab"]
    assert sh("secrets.sh", tmp_path / "secrets", home=tmp_path).returncode == 1
