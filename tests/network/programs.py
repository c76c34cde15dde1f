"""Small programs for the hosts of a network, and what they find."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from patience import DEADLINE_S
from sage.testing.network import Host

_ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 7))
print("ready", flush=True)
while True:
    data, sender = server.recvfrom(65536)
    server.sendto(data, sender)
"""
_ASK = """
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect((sys.argv[1], 7))
client.settimeout(float(sys.argv[3]))
for number in range(int(sys.argv[2])):
    started = time.perf_counter()
    client.send(number.to_bytes(8, "big"))
    try:
        while int.from_bytes(client.recv(100), "big") != number:
            pass
        print((time.perf_counter() - started) * 1e3)
    except TimeoutError:
        print("lost")
"""
END = 2**32 - 1
"""The number that a listener stops at."""
_LISTEN = f"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE: whatever comes while it does not run
server.bind(("", 8))
print("ready", flush=True)
while (number := int.from_bytes(server.recv(65536)[:4], "big")) != {END}:
    print(number)
"""
_SEND = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in sys.argv[3:]:
    client.sendto(int(number).to_bytes(4, "big").ljust(int(sys.argv[2]), b"x"), (sys.argv[1], 8))
"""
_SINK = """
import socket, time
server = socket.create_server(("", 9))
print("ready", flush=True)
connection, _ = server.accept()
count, started = 0, time.perf_counter()
while got := connection.recv(1 << 20):
    count += len(got)
print(count, time.perf_counter() - started)
"""
_STREAM = """
import socket, sys
with socket.create_connection((sys.argv[1], 9)) as connection:
    left = int(sys.argv[2])
    while left:
        left -= connection.send(bytes(min(left, 1 << 20)))
"""


@contextmanager
def serving(host: Host, program: str) -> Iterator["subprocess.Popen[str]"]:
    """A program that has said that it is ready, until the block ends."""
    with host.popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def listening(host: Host) -> AbstractContextManager["subprocess.Popen[str]"]:
    """A program that prints the number of each datagram that arrives, until `END` does."""
    return serving(host, _LISTEN)


def send(source: Host, target: Host, numbers: Iterable[int], *, size: int = 4) -> None:
    """Send a datagram of `size` bytes for each of `numbers`; nobody answers."""
    _run(source, _SEND, target.address, str(size), *map(str, numbers))


def answers(source: Host, target: Host, count: int, *, patience_s: float = DEADLINE_S) -> list[float | None]:
    """Milliseconds from each of `count` datagrams to its answer, one after the other; None for those that got none."""
    with serving(target, _ECHO):
        found = _run(source, _ASK, target.name, str(count), str(patience_s))
    return [None if word == "lost" else float(word) for word in found.split()]


def shortest_round_trip_ms(source: Host, target: Host, count: int = 50) -> float:
    """The shortest of `count` round trips: what the machine was busy with is in the others."""
    return min(time for time in answers(source, target, count) if time is not None)


def stream(source: Host, target: Host, size: int) -> tuple[int, float]:
    """Bytes that arrived of `size` sent over one TCP connection, and the seconds it took."""
    with serving(target, _SINK) as sink:
        _run(source, _STREAM, target.name, str(size))
        assert sink.stdout is not None
        count, seconds = sink.stdout.readline().split()
    return int(count), float(seconds)


def _run(host: Host, program: str, *arguments: str) -> str:
    text: str = host.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=DEADLINE_S
    ).stdout
    return text
