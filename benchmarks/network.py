"""What the network laboratory costs, and how exact it is: ``python benchmarks/network.py`` as root.

Delays are medians of round trips of 20-byte datagrams between two programs. "adds" is what is left of half a round trip
without the delay that was set: sending, receiving and being woken up included, in which the same round trip over
loopback has its share too. Busy: two more processes keep two cores busy all the time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass

from sage.testing.network import Host, Link, Network

DELAYS_MS = (0.0, 0.25, 0.5, 1.0, 2.5, 5.0)
ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 7))
print("ready", flush=True)
while True:
    data, sender = server.recvfrom(2048)
    server.sendto(data, sender)
"""
ASK = """
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect((sys.argv[1], 7))
for _ in range(200):
    started = time.perf_counter()
    client.send(bytes(20))
    client.recv(100)
    print((time.perf_counter() - started) * 1e3)
    time.sleep(0.001)
"""
SINK = """
import socket, time
server = socket.create_server(("", 9))
print("ready", flush=True)
connection, _ = server.accept()
buffer, count, started = bytearray(1 << 20), 0, time.perf_counter()
while got := connection.recv_into(buffer):
    count += got
print(count / (time.perf_counter() - started))
"""
STREAM = """
import socket, sys, time
block, until = bytes(1 << 20), time.perf_counter() + 1.5
with socket.create_connection((sys.argv[1], 9)) as connection:
    while time.perf_counter() < until:
        connection.sendall(block)
"""
FLOOD = """
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
started = time.perf_counter()
while time.perf_counter() < started + 1.5:
    for _ in range(100):
        client.sendto(bytes(100), (sys.argv[1], 8))
print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Pair:
    """Two hosts, and what their programs measure."""

    source: Host
    target: Host

    def measure(self, server: str, client: str) -> list[float]:
        """The figures that the two programs print."""
        with self.target.popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True) as serving:
            assert serving.stdout is not None
            serving.stdout.readline()
            asking = [sys.executable, "-c", client, self.target.name]
            found: str = self.source.run(asking, stdout=subprocess.PIPE, text=True, check=True).stdout
            if server is ECHO:
                serving.kill()
            return [float(word) for word in (found + serving.stdout.read()).split()]

    def packet_rate(self, network: Network) -> float:
        """Packets of 100 bytes a second that the forwarder delivers."""
        flooding = [sys.executable, "-c", FLOOD, self.target.address]
        seconds: str = self.source.run(flooding, stdout=subprocess.PIPE, text=True, check=True).stdout
        return network.link(self.source, self.target).crossed().packets / float(seconds)


def main() -> None:
    """Print all figures."""
    print("one way set  round trip p50    p90    adds   MB/s   round trip p50, busy    adds  (ms, mtu 9000)")
    with Network() as network:
        pair = Pair(network.host("a"), network.host("b"))
        loopback = statistics.median(Pair(pair.source, pair.source).measure(ECHO, ASK))
        for delay_ms in DELAYS_MS:
            network.set(delay_ms=delay_ms)
            print(delay_row(pair, delay_ms))
        print(f"the same round trip over loopback: {loopback:.3f} ms")
    for mtu in (1_500, 9_000, 65_500):
        with Network(Link(), mtu=mtu) as network:
            pair = Pair(network.host("a"), network.host("b"))
            packets = pair.packet_rate(network)
            rate = pair.measure(SINK, STREAM)[0] / 1e6
            print(f"mtu {mtu:6}: {rate:6.0f} MB/s over TCP, {packets:9,.0f} packets/s of 100 bytes")


def delay_row(pair: Pair, delay_ms: float) -> str:
    """Accuracy and throughput at one delay."""
    idle = sorted(pair.measure(ECHO, ASK))
    rate = pair.measure(SINK, STREAM)[0] / 1e6
    burning = [pair.source.popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    busy = statistics.median(pair.measure(ECHO, ASK))
    for process in burning:
        process.kill()
        process.wait()
    p50, p90 = idle[len(idle) // 2], idle[len(idle) * 9 // 10]
    return (
        f"{delay_ms:11.2f} {p50:15.3f} {p90:6.3f} {p50 / 2 - delay_ms:7.3f} {rate:6.0f} "
        f"{busy:22.3f} {busy / 2 - delay_ms:7.3f}"
    )


if __name__ == "__main__":
    main()
