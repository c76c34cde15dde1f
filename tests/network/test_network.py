"""Hosts that are machines of their own, and links that do what they were told."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import END, answers, listening, send, shortest_round_trip_ms, stream

from sage.errors import InternalError, UsageError
from sage.testing.network import Host, Link, Network

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("laboratory")]

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def pair(network: Network) -> tuple[Host, Host]:
    return network.host("a"), network.host("b")


def text_of(host: Host, program: str) -> str:
    found: str = host.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    return found.strip()


def test_a_host_is_a_machine_of_its_own(network: Network, pair: tuple[Host, Host], tmp_path: Path) -> None:
    a, b = pair
    assert network.host("a") is a
    assert (a.address, b.address) == ("10.77.0.1", "10.77.0.2")
    text_of(a, "open('/dev/shm/mine', 'w')")
    look = "import os, socket; print(socket.gethostname(), os.listdir('/dev/shm'), len(socket.if_nameindex()))"
    assert text_of(a, look) == "a ['mine'] 2"
    assert text_of(b, look) == "b [] 2"
    assert not Path("/dev/shm/mine").exists()
    assert text_of(a, "import os; print(os.getcwd())") == str(tmp_path)
    assert text_of(a, "import socket; print(*map(socket.gethostbyname, ['localhost', 'a', 'b']))").split() == [
        "127.0.0.1",
        a.address,
        b.address,
    ]


def test_a_function_can_be_called_inside(pair: tuple[Host, Host]) -> None:
    def connect() -> socket.socket:
        return socket.create_connection(("b", 7000))

    a, b = pair
    with b.call(lambda: socket.create_server(("b", 7000))) as server, a.call(connect) as client:
        connection, address = server.accept()
        connection.close()
        assert address == client.getsockname()
        assert address[0] == a.address
    with pytest.raises(ConnectionRefusedError):
        a.call(connect)


def test_a_program_starts_as_with_subprocess(pair: tuple[Host, Host]) -> None:
    with pytest.raises(FileNotFoundError):
        pair[0].popen(["there is no such program"])
    with pytest.raises(subprocess.CalledProcessError):
        pair[0].run(["false"], check=True)
    assert pair[0].run(["false"]).returncode == 1


@pytest.mark.parametrize("delay_ms", [0.25, 1.0, 5.0])
def test_the_delay_is_the_one_that_was_set(
    network: Network, pair: tuple[Host, Host], delay_ms: float, wait_until: Wait
) -> None:
    """At least that much, but for what a wake-up takes; and not much more when the machine is not busy."""
    network.set(delay_ms=delay_ms)
    found = [shortest_round_trip_ms(*pair)]
    wait_until(lambda: found[-1] < 2 * delay_ms + 3.0 or found.append(shortest_round_trip_ms(*pair)))
    assert min(found) > 2 * delay_ms - 0.25


def test_each_direction_has_its_own_delay(network: Network, pair: tuple[Host, Host], wait_until: Wait) -> None:
    network.link("a", "b").set(delay_ms=6)
    found = [shortest_round_trip_ms(*pair)]
    wait_until(lambda: found[-1] < 11 or found.append(shortest_round_trip_ms(*pair)))
    assert min(found) > 5.7
    assert network.link("a", "b").link == Link(delay_ms=6)
    assert network.link("b", "a").link == Link()


def test_jitter_spreads_the_delays(network: Network, pair: tuple[Host, Host]) -> None:
    network.link("a", "b").set(delay_ms=1, jitter_ms=4)
    times = sorted(time for time in answers(*pair, count=60) if time is not None)
    assert times[0] > 0.8
    assert times[45] - times[15] > 0.8, "half of 4 ms on average"


def test_loss_is_as_frequent_as_was_asked_for_and_repeats(wait_until: Wait) -> None:
    arrived = []
    for seed in (1, 1, 2):
        with Network(seed=seed) as network:
            a, b = network.host("a"), network.host("b")
            wire = network.link(a, b)
            wire.set(loss=0.3)
            with listening(b) as listener:
                send(a, b, range(400))
                wait_until(lambda wire=wire: wire.crossed().packets + wire.crossed().dropped == 400)
                wire.set(loss=0)
                send(a, b, [END])
                arrived.append(listener.stdout.read().split())
            assert wire.crossed().dropped == 400 - len(arrived[-1])
            assert 70 < wire.crossed().dropped < 170, "120 on average, with a standard deviation of 9"
    assert arrived[0] == arrived[1] != arrived[2]


def test_a_partition_lets_nothing_through_until_it_is_healed(network: Network) -> None:
    a, b, c = (network.host(name) for name in "abc")
    network.partition([a], ["b"])
    assert answers(a, b, 2, patience_s=0.02) == [None, None]
    assert network.link(a, b).crossed().packets == 0
    assert network.link(a, b).crossed().dropped >= 2
    assert None not in answers(a, c, 2)
    network.heal()
    assert None not in answers(a, b, 2)


def test_a_partition_takes_what_is_on_its_way(network: Network, pair: tuple[Host, Host], wait_until: Wait) -> None:
    a, b = pair
    network.link(a, b).set(delay_ms=60_000)
    send(a, b, [0])
    network.link(a, b).partition()
    wait_until(lambda: network.link(a, b).crossed().dropped == 1)
    network.link(a, b).set(delay_ms=0)
    network.heal()
    assert None not in answers(a, b, 2)


def test_the_bandwidth_bounds_a_stream(network: Network, pair: tuple[Host, Host]) -> None:
    network.link(*pair).set(bandwidth_mbit=80)
    count, seconds = stream(*pair, size=5_000_000)
    assert count == 5_000_000
    assert seconds > 0.4, "10 MB/s, with its headers"
    assert network.link(*pair).crossed().bytes > count


def test_what_would_wait_too_long_for_the_bandwidth_is_dropped(
    network: Network, pair: tuple[Host, Host], wait_until: Wait
) -> None:
    wire = network.link(*pair)
    wire.set(bandwidth_mbit=0.004, queue_ms=2_500)
    send(*pair, range(10), size=472)
    wait_until(lambda: wire.crossed().dropped == 7)  # 500 bytes take a second: the fourth would wait for three


def test_every_packet_is_counted(network: Network, pair: tuple[Host, Host]) -> None:
    assert None not in answers(*pair, count=25)
    for one, other in (pair, pair[::-1]):
        crossed = network.link(one, other).crossed()
        assert (crossed.packets, crossed.bytes, crossed.dropped) == (25, 25 * (20 + 8 + 8), 0)


def test_large_packets_cross_whole(wait_until: Wait) -> None:
    with Network(mtu=65_500) as network:
        a, b = network.host("a"), network.host("b")
        send(a, b, [0], size=65_000)
        wait_until(lambda: network.link(a, b).crossed().bytes == 65_028)


def test_killing_a_host_ends_its_daemons_and_nothing_else(pair: tuple[Host, Host]) -> None:
    a, b = pair
    start = "subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, start_new_session=True)"
    daemon = int(text_of(a, f"import subprocess; print({start}.pid)"))
    assert living_in(a.network_id) == {daemon}
    other = b.popen(["sleep", "60"])
    a.kill()
    assert living_in(a.network_id) == set()
    assert other.poll() is None
    assert text_of(a, "print('alive')") == "alive"


def test_nothing_is_left_at_the_end() -> None:
    with Network() as network:
        process = network.host("a").popen(["sleep", "60"])
        network_id = network.host("a").network_id
    assert process.returncode == -signal.SIGKILL
    network.close()
    assert not living_in(network_id)


def test_nothing_is_left_when_its_process_is_killed(wait_until: Wait) -> None:
    program = """
from sage.testing.network import Network
network = Network()
print(network.host("a").popen(["sleep", "60"], start_new_session=True).pid, network.host("a").network_id, flush=True)
input()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as maker:
        assert maker.stdout is not None
        pid, network_id = map(int, maker.stdout.readline().split())
        assert living_in(network_id) == {pid}
        maker.kill()
    wait_until(lambda: not living_in(network_id))


def living_in(network_id: int) -> set[int]:
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            if link.stat().st_ino == network_id:
                found.add(int(link.parts[2]))
        except OSError:  # it ended
            continue
    return found


def test_who_is_not_root_is_told_so() -> None:
    program = "import os\nfrom sage.testing.network import Network\nos.setuid(65534)\nNetwork()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "E130 the network laboratory makes namespaces" in result.stderr
    assert "expected root on Linux" in result.stderr


def test_a_kernel_that_refuses_is_told() -> None:
    """Root without the right to make namespaces, as in an ordinary container."""
    program = "from sage.testing.network import Network\nwith Network() as network: network.host('a')"
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "E131 the kernel refuses" in result.stderr
    assert "Operation not permitted" in result.stderr


def test_a_forwarder_that_ends_is_noticed(network: Network, pair: tuple[Host, Host]) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    forwarder = next(pid for pid in children if b"forwarder" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(int(forwarder), signal.SIGKILL)
    with pytest.raises(InternalError, match="E910"):
        network.set(delay_ms=1)


@pytest.mark.parametrize(
    "values",
    [{"delay_ms": -1}, {"jitter_ms": float("nan")}, {"loss": 1.1}, {"bandwidth_mbit": 0}, {"queue_ms": 1e9}, {"x": 1}],
)
def test_a_value_that_cannot_be_is_refused(network: Network, values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="E132"):
        network.set(**values)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a" * 33])
def test_a_name_that_cannot_be_is_refused(network: Network, name: str) -> None:
    with pytest.raises(UsageError, match="E132"):
        network.host(name)


def test_an_unknown_link_is_refused(network: Network, pair: tuple[Host, Host]) -> None:
    with pytest.raises(UsageError, match="E132 no such link: got a to c"):
        network.link("a", "c")
    with pytest.raises(UsageError, match="E132"):
        network.partition(["a"], ["a"])
    with pytest.raises(UsageError, match="E132"):
        Network(mtu=100)
