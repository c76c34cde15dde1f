"""A network of hosts on one machine, and what it lets its users do to the links."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import product
from types import TracebackType
from typing import Any, Self

from sage.errors import InternalError, UsageError
from sage.testing.network.host import Host
from sage.testing.network.link import Crossed, Link
from sage.testing.network.namespaces import make_host

_MAX_HOSTS = 254
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_REPLY_S = 10.0
_MAX_REPLY_BYTES = 4_096


class Control:
    """The forwarder's process, and the socket over which it is asked. It lives until `close()`."""

    def __init__(self, seed: int) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_REPLY_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sage.testing.network.forwarder", str(theirs.fileno()), str(seed)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is not for it: it ends when the socket does
            )
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any], *fds: int) -> dict[str, int]:
        """Its reply to one request. Raises `InternalError` E910 if it has ended."""
        with self._lock:
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
                reply = self._socket.recv(_MAX_REPLY_BYTES)
            except OSError as error:
                raise _lost(error) from error
        if not reply:
            raise _lost("no reply")
        answer: dict[str, int] = json.loads(reply)
        return answer

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()


def _lost(got: object) -> InternalError:
    return InternalError("E910", "the forwarder of the network laboratory has ended", got=got)


class Wire:
    """One direction between two hosts, as `Network.link` gives it: settable while packets cross."""

    def __init__(self, control: Control, source: Host, target: Host, link: Link) -> None:
        self._ask = control.ask
        self._source = source
        self._target = target
        self._link = link
        self._cut = False
        self._apply()

    @property
    def link(self) -> Link:
        """What it does to packets now."""
        return self._link

    def set(self, **values: Any) -> None:
        """Change fields of its `Link`; packets that are on their way stay as they are. Raises `UsageError` E132."""
        self._link = _changed(self._link, values)
        self._apply()

    def partition(self) -> None:
        """From the return of this call nothing crosses, not even what is on its way."""
        self._cut = True
        self._apply()

    def heal(self) -> None:
        """End the partition."""
        self._cut = False
        self._apply()

    def crossed(self) -> Crossed:
        """What it has carried since the hosts exist."""
        return Crossed(**self._ask({"count": [self._source.name, self._target.name]}))

    def _apply(self) -> None:
        self._ask(
            {
                "from": self._source.name,
                "to": self._target.name,
                "address": self._target.address,
                "link": asdict(self._link),
                "cut": self._cut,
            }
        )


class Network:
    """Hosts that are machines of their own to what runs in them, joined pair by pair by links like `link`.

    A context manager: at its end, and also when the process that made it is killed, every process in its hosts is
    killed, and nothing is left. Loss and jitter are drawn from `seed`: the same packets meet the same fate.
    Linux, and root. Raises `UsageError` E130 without root, E131 where the kernel refuses.
    """

    def __init__(self, link: Link | None = None, *, seed: int = 0, mtu: int = 9_000) -> None:
        _check_root()
        if not 576 <= mtu <= 65_500:
            raise UsageError("E132", "a packet size that cannot be used", at="mtu", got=mtu, expected="576 to 65500")
        self._link = link or Link()
        self._mtu = mtu
        self._hosts: dict[str, Host] = {}
        self._wires: dict[tuple[str, str], Wire] = {}
        self._control = Control(seed)

    def host(self, name: str) -> Host:
        """The host of this name; a new one, linked to all others, when it is first asked for.

        Names are lower-case letters, digits and dashes; inside, each is resolved. Raises `UsageError` E131 or E132.
        """
        if name not in self._hosts:
            self._add(name)
        return self._hosts[name]

    def link(self, source: Host | str, target: Host | str) -> Wire:
        """The direction from `source` to `target`. Raises `UsageError` E132 if there is none."""
        pair = (_name(source), _name(target))
        if pair not in self._wires:
            raise UsageError("E132", "no such link", got=" to ".join(pair), expected=f"two of {sorted(self._hosts)}")
        return self._wires[pair]

    def set(self, **values: Any) -> None:
        """Change fields of all links, and of those of hosts to come. Raises `UsageError` E132."""
        self._link = _changed(self._link, values)
        for wire in self._wires.values():
            wire.set(**values)

    def partition(self, some: Iterable[Host | str], others: Iterable[Host | str]) -> None:
        """Cut both directions between each of `some` and each of `others`."""
        for one, other in product(some, tuple(others)):
            self.link(one, other).partition()
            self.link(other, one).partition()

    def heal(self) -> None:
        """End all partitions."""
        for wire in self._wires.values():
            wire.heal()

    def close(self) -> None:
        """Kill everything in the hosts, and remove them. Safe to repeat."""
        with ExitStack() as stack:  # each of these happens, whichever of them fails
            stack.callback(self._control.close)
            for host in self._hosts.values():
                stack.callback(host.close)
                stack.callback(host.kill)
            self._hosts.clear()
            self._wires.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError("E132", "no host can have this name", got=name, expected="at most 32 of a-z, 0-9 and -")
        if len(self._hosts) == _MAX_HOSTS:
            raise UsageError("E132", "one host too many", got=name, expected=f"at most {_MAX_HOSTS} hosts")
        address = f"10.77.0.{len(self._hosts) + 1}"
        names = [f"{other.address} {other.name}\n" for other in self._hosts.values()]
        host, tun = _make_host(name, address, self._mtu, "".join(["127.0.0.1 localhost\n", *names]))
        try:
            self._control.ask({"host": name, "network_id": host.network_id}, tun)
        finally:
            os.close(tun)
        self._hosts[name] = host
        for other in self._hosts.values():
            other.learn(name, address)
            if other is not host:
                self._wires[name, other.name] = Wire(self._control, host, other, self._link)
                self._wires[other.name, name] = Wire(self._control, other, host, self._link)


def _check_root() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise UsageError(
            "E130",
            "the network laboratory makes namespaces and devices",
            got=f"user {os.geteuid()} on {sys.platform}",
            expected="root on Linux",
            try_="sudo, or a container with --privileged",
        )


def _make_host(name: str, address: str, mtu: int, names: str) -> tuple[Host, int]:
    try:
        namespaces, tun = make_host(name, address, mtu, names)
    except OSError as error:
        raise UsageError(
            "E131",
            "the kernel refuses to make a host of the network laboratory",
            got=error,
            expected="CAP_SYS_ADMIN, CAP_NET_ADMIN and /dev/net/tun",
            try_="a container with --privileged --device /dev/net/tun",
        ) from error
    return Host(name, address, namespaces), tun


def _changed(link: Link, values: dict[str, Any]) -> Link:
    try:
        return replace(link, **values)
    except TypeError:
        raise UsageError("E132", "a link has no such field", got=sorted(values), expected=str(Link())) from None


def _name(host: Host | str) -> str:
    return host if isinstance(host, str) else host.name
