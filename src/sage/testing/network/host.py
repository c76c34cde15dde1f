"""One host of the laboratory: what runs in it believes that it is alone on a machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sage.testing.network.namespaces import Namespaces, end_processes

Argv = Sequence[str | Path]
Result = TypeVar("Result")


class Host:
    """A machine's worth of namespaces: network, host name and /dev/shm are its own, files and processes are shared.

    `Network.host` makes it, and its network ends it.
    """

    def __init__(self, name: str, address: str, namespaces: Namespaces) -> None:
        self.name = name
        self.address = address
        self._namespaces = namespaces
        self._started: list[subprocess.Popen[Any]] = []

    @property
    def network_id(self) -> int:
        """Tells its network namespace from all others."""
        return self._namespaces.network_id

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Files by which another process of root enters this host with ``setns``, in this order."""
        return self._namespaces.paths()

    def popen(self, argv: Argv, **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside; `options` are those of `subprocess.Popen`, and so is what it raises."""
        process = self.call(partial(subprocess.Popen, argv, **options))
        self._started.append(process)
        return process

    def run(self, argv: Argv, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program inside to its end; `options` are those of `subprocess.run`."""
        return self.call(partial(subprocess.run, argv, **options))

    def call(self, function: Callable[[], Result]) -> Result:
        """What `function` returns or raises, called inside, by a thread of this process.

        What it opens stays what it is: a socket that it connects can be used by all, and belongs to this host.
        """
        return self._namespaces.call(function)

    def kill(self) -> None:
        """Kill every process inside at once, as if the power had failed. The host stays, and can run others."""
        end_processes({self.network_id})
        for process in self._started:
            process.wait()
        self._started.clear()

    def learn(self, name: str, address: str) -> None:
        """Called by its network: from now on the name is resolved inside."""

        def write() -> None:
            with Path("/etc/hosts").open("a") as names:
                names.write(f"{address} {name}\n")

        self.call(write)

    def close(self) -> None:
        """Called by its network, after `kill`."""
        self._namespaces.close()
