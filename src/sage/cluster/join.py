"""The way to a cluster that somebody else started."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version

from sage import settings
from sage.cluster.cluster import LOOPBACK, Cluster
from sage.cluster.named import all_named, find
from sage.cluster.probe import Answer, probe
from sage.cluster.sessions import is_inside
from sage.errors import ClusterError, MissingDependency, UsageError
from sage.settings import RayAccess

_RAYS_NOTE = Path("/tmp/ray/ray_current_cluster")
"""Where ``ray start`` writes the address of what it started last on this machine."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where a cluster should be, and the token for it. `found_in` says who told."""

    address: str
    token: str | None
    token_path: Path | None
    found_in: str


def join(address: str, *, insecure: bool = False) -> Cluster:
    """The cluster at `address`: ``host:port``, the name of one that `sage cluster up` started, or ``auto``.

    ``auto`` is what ``RAY_ADDRESS`` names, else the only one of `sage cluster up`, else what ``ray start`` started last
    on this machine. Takes a few seconds at most. The token is found where Ray looks for it.

    Raises `MissingDependency` without Ray; `UsageError` E104 for what is no address; `ClusterError` E831 if nothing
    answers, E832 if it takes everybody in and this is not allowed by `insecure`, E833 for a wrong token, E834 if Ray or
    Python are of other versions there, E840 if this machine is no node of it.
    """
    if find_spec("ray") is None:
        raise MissingDependency("ray[default]", "ray", "a Ray cluster")
    way = way_to(address)
    answer = probe(way.address, way.token)
    _check_versions(way.address, answer)
    if not (answer.asks_for_token or insecure):
        raise ClusterError(
            "E832", "the Ray cluster lets everybody in who reaches it, to run any code", at=way.address,
            try_="starting it with RAY_AUTH_MODE=token, or --insecure-cluster if its network is closed",
        )  # fmt: skip
    _check_membership(way.address, answer)
    return Cluster(
        _address_inside(way.address, answer),
        answer.nodes,
        way.token_path if answer.asks_for_token else None,
        token_in_environment=answer.asks_for_token and way.token_path is None,
    )


def way_to(address: str) -> Way:
    """Where `address` leads, before anybody was asked. Raises `UsageError` E104, `ClusterError` E831 or E836."""
    access = settings.ray_access()
    if address == "auto":
        return _any_way(access)
    if ":" not in address:
        return _named_way(address)
    host, _, port = address.rpartition(":")
    if not (re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]", host) and port.isdigit() and 0 < int(port) < 65_536):
        raise UsageError(
            "E104", "not the address of a cluster", got=address, expected="auto, HOST:PORT, or a name of a cluster"
        )
    return _way(address, access, "the command line")


def _any_way(access: RayAccess) -> Way:
    if access.address is not None:
        return _way(access.address, access, "RAY_ADDRESS")
    if any(one.is_held for one in all_named()):
        return _named_way(None)
    try:
        return _way(_RAYS_NOTE.read_text().strip(), access, str(_RAYS_NOTE))
    except OSError:
        raise ClusterError(
            "E831", "no Ray cluster was found on this machine", at="address auto", try_="sage cluster up, or HOST:PORT"
        ) from None


def _named_way(name: str | None) -> Way:
    found = find(name)
    if found.namespaces and not is_inside(found.namespaces):
        raise _outside(
            found.cluster.address, "a network of its own", f"sage cluster exec --name {found.name} -- COMMAND"
        )
    cluster = found.cluster
    assert cluster.token_path is not None
    return Way(cluster.address, cluster.token_path.read_text(), cluster.token_path, "sage cluster")


def _way(address: str, access: RayAccess, found_in: str) -> Way:
    if access.token is not None:
        return Way(address, access.token.reveal(), None, found_in)
    if access.token_path is None:
        return Way(address, None, None, found_in)
    try:
        return Way(address, access.token_path.read_text().strip(), access.token_path, found_in)
    except OSError as error:
        raise ClusterError(
            "E833",
            "the file with the token of the cluster cannot be read",
            at=str(access.token_path),
            got=error.strerror,
        ) from error


def _check_versions(address: str, answer: Answer) -> None:
    here = f"Ray {version('ray')}, Python {python_version()}"
    there = f"Ray {answer.ray_version}, Python {answer.python_version}"
    if here != there:
        raise ClusterError(
            "E834", "the cluster and this process are of different versions", at=address, got=there, expected=here,
            try_="the same Python and the same Ray on every machine",
        )  # fmt: skip


def _check_membership(address: str, answer: Answer) -> None:
    if not any(_is_here(node.address) for node in answer.nodes):
        known = ", ".join(node.address for node in answer.nodes[:8]) or "no node at all"
        raise _outside(address, known, f"ray start --address={address} --num-cpus=0 on this machine")


def _outside(address: str, got: str, try_: str) -> ClusterError:
    return ClusterError(
        "E840", "this machine is no node of the cluster, and a driver has to be on one", at=address, got=got, try_=try_
    )


def _is_here(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probing:
            probing.bind((address, 0))
    except OSError:
        return False
    return True


def _address_inside(address: str, answer: Answer) -> str:
    """With the address that the head knows itself by: a driver on it must not call it 127.0.0.1."""
    host, _, port = address.rpartition(":")
    if host in (LOOPBACK, "localhost", "[::1]"):
        return f"{answer.nodes[0].address}:{port}"
    return address
