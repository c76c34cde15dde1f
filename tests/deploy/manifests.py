"""Check deploy/compose.yaml and deploy/kuberay.yaml against the schemas of those who read them; `make check-deploy`.

The schemas are in a folder, and not here, because they are large and not ours: `compose-spec.json` of compose-spec
(schema/), and `ray.io_rayclusters.yaml` of KubeRay (helm-chart/kuberay-operator/crds/).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE, RAY_CLUSTER = "compose-spec.json", "ray.io_rayclusters.yaml"


def closed(schema: Any) -> Any:
    """The schema of a custom resource as Kubernetes reads it: fields that it does not know are mistakes."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: closed(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    return strict


def wrong_in_compose(document: Any, schemas: Path) -> Iterator[str]:
    """What the Compose specification has against it."""
    yield from _wrong(document, json.loads((schemas / COMPOSE).read_text()))


def wrong_in_ray_cluster(document: Any, schemas: Path) -> Iterator[str]:
    """What KubeRay has against it, in the version that it names."""
    definition = yaml.safe_load((schemas / RAY_CLUSTER).read_text())
    version = document["apiVersion"].partition("/")[2]
    found = [each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == version]
    if not found:
        yield f"apiVersion: {version} is no version of the schema"
        return
    schema = closed(found[0])
    schema["properties"]["metadata"] = {"type": "object"}
    yield from _wrong(document, schema)


def _wrong(document: Any, schema: Any) -> Iterator[str]:
    for error in Draft202012Validator(schema).iter_errors(document):
        yield f"{error.json_path}: {error.message}"


def main(schemas: Path) -> int:
    """Print what is wrong; 1 if anything is."""
    clusters = [
        each for each in yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()) if each["kind"] == "RayCluster"
    ]
    found = [
        *(f"compose.yaml {each}" for each in wrong_in_compose(_compose(), schemas)),
        *(f"kuberay.yaml {each}" for cluster in clusters for each in wrong_in_ray_cluster(cluster, schemas)),
    ]
    print(*found or [f"compose.yaml and {len(clusters)} RayCluster are as their schemas say"], sep="\n")
    return 1 if found else 0


def _compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
