"""The link itself: a process that moves packets between the TUN devices of the hosts, each at its time.

``python -m sage.testing.network.forwarder FD`` serves the socket `FD`, whose other end is a `Network`: one request and
one reply a message, in JSON. When that end is gone it kills what still runs in the hosts, and ends.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import socket
import statistics
import sys
from collections import deque
from time import monotonic
from typing import Any

from sage.testing.network.link import Link
from sage.testing.network.namespaces import end_processes

_MAX_REQUEST_BYTES = 4_096
_MAX_PACKET_BYTES = 65_535
_PACKETS_AT_ONCE = 64  # read from one device before the others have their turn
_MAX_LATENESS_S = 0.000_1  # more is a disturbance, not the machine
_MAX_QUEUED_BYTES = 256 * 1024 * 1024  # of one carrier


class Carrier:
    """One direction between two hosts: what it carries now, and what it has carried."""

    def __init__(self, target: int, seed: str) -> None:
        self._target = target
        self.packets = self.bytes = self.dropped = 0
        self.queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._random = random.Random(seed)
        self._last_due = 0.0  # of the packet that was queued last: none overtakes it
        self.set(Link(), cut=False)

    def set(self, link: Link, cut: bool) -> None:
        """Change what happens to packets that come from now on. A cut drops also what is on its way."""
        self._delay_s = link.delay_ms / 1e3
        self._jitter_s = link.jitter_ms / 1e3
        self._loss = link.loss
        self._byte_s = 0.0 if link.bandwidth_mbit is None else 8e-6 / link.bandwidth_mbit
        self._wait_s = link.queue_ms / 1e3
        self._free_at = 0.0
        self._cut = cut
        if cut:
            self.dropped += len(self.queue)
            self.queue.clear()
            self._queued_bytes = 0
            self._last_due = 0.0

    def send(self, packet: bytes, now: float) -> None:
        """Take a packet that came at `now`: drop it, pass it on, or keep it for later."""
        if self._cut or (self._loss and self._random.random() < self._loss):
            self.dropped += 1
            return
        due = now
        if self._byte_s:
            due = max(now, self._free_at)
            if due - now > self._wait_s:
                self.dropped += 1
                return
            due += len(packet) * self._byte_s
            self._free_at = due
        due += self._delay_s
        if self._jitter_s:
            due += self._random.random() * self._jitter_s
        if due <= now and not self.queue:
            self._deliver(packet)
        elif self._queued_bytes > _MAX_QUEUED_BYTES:
            self.dropped += 1
        else:
            self._last_due = due = max(due, self._last_due)
            self._queued_bytes += len(packet)
            self.queue.append((due, packet))

    def release(self, now: float) -> None:
        """Deliver what is due."""
        queue = self.queue
        while queue and queue[0][0] <= now:
            packet = queue.popleft()[1]
            self._queued_bytes -= len(packet)
            self._deliver(packet)

    def _deliver(self, packet: bytes) -> None:
        try:
            os.write(self._target, packet)
        except OSError:  # a device that was set down inside the host
            self.dropped += 1
        else:
            self.packets += 1
            self.bytes += len(packet)


class Forwarder:
    """All hosts of one network, in one loop that waits for packets, for a packet to be due, or for a request."""

    def __init__(self, control: socket.socket, seed: int) -> None:
        self._control = control
        self._seed = seed
        self._tuns: dict[str, int] = {}
        self._network_ids: set[int] = set()
        self._lateness_s = _lateness_s()
        self._carriers: dict[tuple[str, str], Carrier] = {}
        self._routes: dict[int, dict[bytes, Carrier]] = {}

    def run(self) -> None:
        """Forward until the other end of the control socket is gone; then end what runs in the hosts."""
        control = self._control.fileno()
        while True:
            ready, _, _ = select.select([control, *self._routes], (), (), self._wait_s())
            for fd in ready:
                if fd != control:
                    self._receive(fd)
                elif not self._serve():
                    end_processes(self._network_ids)
                    return
            now = monotonic() + self._lateness_s
            for carrier in self._carriers.values():
                carrier.release(now)

    def _wait_s(self) -> float | None:
        dues = [carrier.queue[0][0] for carrier in self._carriers.values() if carrier.queue]
        return max(0.0, min(dues) - self._lateness_s - monotonic()) if dues else None

    def _receive(self, tun: int) -> None:
        routes = self._routes[tun]
        now = monotonic()
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(tun, _MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            carrier = routes.get(packet[16:20])  # the target's address in IPv4; anything else finds no carrier
            if carrier is not None:
                carrier.send(packet, now)

    def _serve(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._control, _MAX_REQUEST_BYTES, 1)
        if not message:
            return False
        reply = self._answer(json.loads(message), fds)
        self._control.send(json.dumps(reply).encode())
        return True

    def _answer(self, request: dict[str, Any], fds: list[int]) -> dict[str, int]:
        match request:
            case {"host": name, "network_id": network_id}:
                self._tuns[name] = fds[0]
                self._routes[fds[0]] = {}
                self._network_ids.add(network_id)
            case {"from": source, "to": target, "address": address, "link": link, "cut": cut}:
                self._set(source, target, socket.inet_aton(address), Link(**link), cut)
            case {"count": [source, target]}:
                carrier = self._carriers[source, target]
                return {"packets": carrier.packets, "bytes": carrier.bytes, "dropped": carrier.dropped}
        return {}

    def _set(self, source: str, target: str, address: bytes, link: Link, cut: bool) -> None:
        carrier = self._carriers.get((source, target))
        if carrier is None:
            carrier = Carrier(self._tuns[target], f"{self._seed} {source} {target}")
            self._carriers[source, target] = self._routes[self._tuns[source]][address] = carrier
        carrier.set(link, cut)


def _lateness_s() -> float:
    """How much longer than asked for a wait takes on this machine: the forwarder gets up that much earlier."""
    late = []
    for _ in range(15):
        started = monotonic()
        select.select((), (), (), 0.0005)
        late.append(monotonic() - started - 0.0005)
    return min(statistics.median(late), _MAX_LATENESS_S)


def main() -> None:
    """Serve the socket whose descriptor is the first argument; the second seeds loss and jitter."""
    gc.disable()  # nothing here makes cycles, and a collection would delay packets
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # before what it measures: it runs for microseconds
    except OSError:
        with open("/proc/self/timerslack_ns", "w") as slack:  # the next best: a timer rings when it shall
            slack.write("1")
    with socket.socket(fileno=int(sys.argv[1])) as control:
        Forwarder(control, int(sys.argv[2])).run()


if __name__ == "__main__":
    main()
