"""What is hardly HTTP, over a bare socket: each an error in OpenAI's form, none a 5xx, and nobody else disturbed."""

import itertools
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from behind import CHAT, MODEL, ask, chat, gateway_for, keyed, used
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Wait
from patience import DEADLINE_S
from sage.gateway import Gateway, serving
from sage.gateway import connection as gateway_connection
from sage.llm.simulated import SimulatedEndpoint

BODY = json.dumps(chat()).encode()
STREAM = json.dumps(chat(stream=True)).encode()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url) as running:
        yield running


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=DEADLINE_S)


def post(head: str | bytes = b"", body: bytes = BODY, path: bytes = CHAT.encode(), *, length: bool = True) -> bytes:
    sized = b"Content-Length: %d\r\n" % len(body) if length else b""
    head = head if isinstance(head, bytes) else head.encode()
    return b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b%b\r\n%b" % (path, head, sized, body)


def get(path: bytes, host: bytes = b"127.0.0.1", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, path, host)


MANY = "".join(f"X{i}: {'a' * 1000}\r\n" for i in range(80))
CHUNKED = "Transfer-Encoding: chunked\r\n"
CASES: dict[str, tuple[bytes, int]] = {
    "two lengths": (post("Content-Length: 5\r\n"), 400),
    "length and chunks": (post(CHUNKED), 400),
    "no length": (post(length=False), 400),
    "negative length": (post("Content-Length: -5\r\n", length=False), 400),
    "length with a sign": (post("Content-Length: +5\r\n", length=False), 400),
    "endless length": (post(f"Content-Length: {'9' * 30}\r\n", length=False), 400),
    "large length": (post("Content-Length: 100000000\r\n", b"", length=False), 413),
    "no chunk": (post(CHUNKED, b"zz\r\n", length=False), 400),
    "half a chunk": (post(CHUNKED, b"5\r\nabcdeXX\r\n0\r\n\r\n", length=False), 400),
    "other encodings": (post("Transfer-Encoding: gzip, chunked\r\n", b"5\r\nabcde\r\n0\r\n\r\n", length=False), 400),
    "two encodings": (post(f"{CHUNKED}Transfer-Encoding: identity\r\n", b"0\r\n\r\n", length=False), 400),
    "a compressed body": (post("Content-Encoding: gzip\r\n"), 415),
    "a giant header": (post(f"X: {'a' * 9000}\r\n"), 400),
    "a larger one": (post(f"X: {'a' * 1_000_000}\r\n"), 400),
    "many headers": (post("".join(f"X{i}: a\r\n" for i in range(1000))), 400),
    "large headers together": (post(MANY), 400),
    "large headers without end": (post(MANY, b"", length=False)[:-2], 400),
    "a giant path": (get(b"/" + b"a" * 70_000), 400),
    "no host": (b"GET /live HTTP/1.1\r\n\r\n", 400),
    "two hosts": (post("Host: evil\r\n"), 400),
    "a fragment in the host": (get(b"/v1/models", b"127.0.0.1#@evil"), 403),
    "a query in the host": (get(b"/v1/models", b"127.0.0.1?@evil"), 403),
    "a user in the host": (get(b"/v1/models", b"evil@127.0.0.1"), 403),
    "half an address": (get(b"/v1/models", b"[::1"), 403),
    "a folded header": (post("X: a\r\n b\r\n"), 400),
    "a space in a name": (post("X : a\r\n"), 400),
    "NUL in a header": (post(b"X: a\0b\r\n"), 400),
    "a job in Latin-1": (post(b"X-SAGE-Job: \xff\r\n"), 400),
    "a deadline in other digits": (post("X-SAGE-Deadline: \u0663\r\n"), 400),
    "a deadline without end": (post("X-SAGE-Deadline: inf\r\n"), 400),
    "a deadline as in Python": (post("X-SAGE-Deadline: 1_0\r\n"), 400),
    "another method": (get(CHAT.encode(), method=b"FOO"), 400),
    "TRACE": (get(CHAT.encode(), method=b"TRACE"), 405),
    "CONNECT": (get(b"evil:80", method=b"CONNECT"), 404),
    "a path that climbs": (get(b"/v1/../metrics/"), 404),
    "half an escape": (get(b"/v1/models/%ff%fe"), 404),
    "a surrogate": (get(b"/v1/models/%ed%a0%80"), 404),
    "control characters": (get(b"/v1/models/%00%1b%0a"), 404),
    "no URI": (get(b"http://[::1"), 400),
    "bare line feeds": (b"GET /live HTTP/1.1\nHost: 127.0.0.1\n\n", 400),
    "HTTP/3": (b"GET /live HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(100)), 400),
    "an odd expectation": (post("Expect: bananas\r\n"), 417),
    "a stream in HTTP/1.0": (post(body=STREAM).replace(b"HTTP/1.1", b"HTTP/1.0", 1), 400),
    "UTF-16": (post("Content-Type: application/json; charset=utf-16\r\n", BODY.decode().encode("utf-16")), 400),
    "another origin": (post("Origin: null\r\n"), 403),
}


def said(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        lines = b"".join(iter(file.readline, b"\r\n"))
        found = re.search(rb"(?i)content-length: (\d+)", lines)
        return status, file.read(int(found[1])) if found else b""


def test_what_is_hardly_http(gateway: Gateway) -> None:
    for name, (sent, status) in CASES.items():
        with connect(gateway) as connection:
            connection.sendall(sent)
            got, body = said(connection)
            assert (name, got) == (name, status)
            assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
    assert ask(gateway, CHAT, chat()).status == 200


def test_nothing_is_smuggled_behind_a_request(gateway: Gateway) -> None:
    """What comes behind a request that is refused for its length is never taken for a request."""
    inner = get(b"/live")
    for sent in (post(CHUNKED, b"0\r\n\r\n" + inner, length=True), post("Content-Length: 0\r\n", inner)):
        with connect(gateway) as connection:
            connection.sendall(sent)
            got = b"".join(iter(lambda: connection.recv(65_536), b""))
            assert got.count(b"HTTP/1.") == 1
            assert b" 400 " in got


@given(
    st.lists(
        st.sampled_from(
            [b"GET", b"POST", b" ", b"/v1/models", CHAT.encode(), b" HTTP/1.1", b"\r\n", b"Host: 127.0.0.1"]
        )
        | st.sampled_from([b"Content-Length: ", b"Transfer-Encoding: ", b"chunked", b"10", b":", b"\0", b"\n", b"\xff"])
        | st.binary(max_size=4),
        max_size=16,
    ).map(b"".join)
)
@settings(max_examples=60)
def test_any_bytes(sent: bytes) -> None:
    with connect(shared()) as connection:
        connection.sendall(sent + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert not re.search(rb"^HTTP/1\.\d 5", got, re.MULTILINE)


RUNNING: list[Gateway] = []


def shared() -> Gateway:
    """The one gateway of all examples."""
    return RUNNING[-1]


@pytest.fixture(autouse=True)
def one_for_all_examples(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.name != "test_any_bytes":
        yield
        return
    with gateway_for("http://127.0.0.1:9", models=(MODEL,)) as running:
        RUNNING.append(running)
        yield
        RUNNING.clear()


def test_a_body_that_does_not_come(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "BODY_TIMEOUT_S", 0.05)
    with connect(gateway) as slow:
        slow.sendall(post("Content-Length: 100\r\n", b"{", length=False))
        assert said(slow)[0] == 408


def test_a_head_that_does_not_come_whole(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a request that was answered. Who says nothing at all, or sends a body slowly, is left alone."""
    monkeypatch.setattr(gateway_connection, "HEAD_TIMEOUT_S", 0.05)
    with connect(gateway) as idle, connect(gateway) as slow, connect(gateway) as again, connect(gateway) as body:
        body.sendall(post(f"Content-Length: {len(BODY)}\r\n", b"", length=False))
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ")
        again.sendall(get(b"/live"))
        assert said(again)[0] == 200
        again.sendall(b"GET /live HT")
        for connection in (slow, again):
            status, text = said(connection)
            assert (status, json.loads(text)["error"]["code"]) == (408, "bad_http")
            assert connection.recv(1) == b""
        body.sendall(BODY)
        idle.sendall(get(b"/live"))
        assert (said(body)[0], said(idle)[0]) == (200, 200)


def test_no_path_but_two_is_open_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever routes there are, by any method; and none of them answers a page of another origin."""
    paths = set[str]()
    add_route = web.UrlDispatcher.add_route

    def noted(self: Any, method: str, path: str, *rest: Any, **options: Any) -> Any:
        paths.add(path)
        return add_route(self, method, path, *rest, **options)

    monkeypatch.setattr(web.UrlDispatcher, "add_route", noted)
    _, entry = keyed("alice")
    with gateway_for("http://127.0.0.1:9", models=(MODEL,), key=(entry,)) as gateway:
        assert {CHAT, "/v1/batches", "/metrics"} <= paths
        asked = [path.replace("{id}", "file-0").replace("{model:.+}", MODEL) for path in sorted(paths)]
        for path, method in itertools.product(asked, ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")):
            found = ask(gateway, path, None, method)
            assert (found.status == 401) is (path not in ("/live", "/health"))
            assert not [name for name in found.headers if name.lower().startswith("access-control")]
            if method not in ("GET", "HEAD"):
                assert ask(gateway, path, None, method, Origin="http://evil").status == 403


def test_clients_that_say_nothing_disturb_nobody(gateway: Gateway) -> None:
    slow = [connect(gateway) for _ in range(200)]
    for connection in slow[::2]:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ")
    assert ask(gateway, CHAT, chat()).status == 200
    for connection in slow:
        connection.close()


def test_a_client_that_does_not_read_holds_up_only_its_own_stream(gateway: Gateway) -> None:
    with connect(gateway) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(post(body=json.dumps(chat(stream=True, max_tokens=3000, ignore_eos=True)).encode()))
        assert ask(gateway, CHAT, chat()).status == 200


def test_keys_stay_out_of_everything_that_is_said(wait_until: Wait, capfd: pytest.CaptureFixture[str]) -> None:
    bearer, entry = keyed("alice")
    admin, root = keyed("root", scopes=("admin",))
    with (
        SimulatedEndpoint("tiny", faults=["401*1"]) as endpoint,
        gateway_for(endpoint.url, key=(entry, root)) as gateway,
    ):
        heard = [
            ask(gateway, CHAT, chat(), Authorization=bearer),
            ask(gateway, CHAT, b"{", Authorization=bearer),
            ask(gateway, "/metrics", Authorization=bearer),
            ask(gateway, "/metrics", Authorization=admin),
            ask(gateway, CHAT, chat(), Authorization=bearer + "x"),
            ask(gateway, CHAT, chat(), Authorization=bearer, X_SAGE_Job="\x1b[31m"),
        ]
    everything = b"".join(one.body + str(one.headers).encode() for one in heard) + gateway.usage_file.read_bytes()
    everything += "".join(capfd.readouterr()).encode()
    assert b"key-of-" not in everything
    assert b"\x1b" not in everything
    assert [one.status for one in heard] == [502, 400, 403, 200, 401, 400]
    assert {used.key for used in used(gateway, "key")} == {"alice"}
