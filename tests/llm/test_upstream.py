"""Answers that are passed on unread: as they came, each fault with its error, connections used again or closed."""

import asyncio
from contextlib import suppress

import pytest
from asking import QUESTION, with_client
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints import MODEL, MisbehavingEndpoint, canary, closed_port_url, deaf_port_url
from patience import DEADLINE_S
from sage.errors import EndpointBusy, EndpointError, EndpointRefused, SageError
from sage.llm import wire
from sage.llm.answer import Patience, Timeouts
from sage.llm.client import ChatClient
from sage.llm.upstream import Upstream

PATH = "/chat/completions"
CANARY = "sk-canary-7d1f"
STREAMED = wire.chat_request(MODEL, QUESTION, {})
WHOLE = wire.chat_request(MODEL, QUESTION, {"stream": False})
UNHURRIED = Timeouts(DEADLINE_S, DEADLINE_S, DEADLINE_S, DEADLINE_S)


async def poured(client: ChatClient, body: bytes = STREAMED) -> bytes:
    """All of an answer, as `pour` gives it."""
    pieces: list[bytes] = []

    def take(piece: bytes) -> bool:
        pieces.append(piece)
        return len(pieces) % 2 == 0

    async with client.relay(PATH, body) as answer:
        await answer.pour(take, lambda: asyncio.sleep(0))
    return b"".join(pieces)


async def pulled(client: ChatClient, body: bytes = STREAMED) -> bytes:
    """The same, piece by piece."""
    pieces = []
    async with client.relay(PATH, body) as answer:
        while piece := await answer.piece():
            pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("read", [poured, pulled])
def test_bytes_come_as_they_were_sent_and_connections_are_used_again(endpoint: MisbehavingEndpoint, read) -> None:  # type: ignore[no-untyped-def]
    async def thrice(client: ChatClient) -> list[bytes]:
        return [await read(client, body) for body in (STREAMED, WHOLE, STREAMED)]

    first, whole, second = with_client(thrice, endpoint.url, key=CANARY)
    assert first == second
    assert first.endswith(b"data: [DONE]\n\n")
    assert b'"ok: why?"' in whole
    assert len({seen.peer for seen in endpoint.requests}) == 1
    assert endpoint.requests[0].headers["Authorization"] == f"Bearer {CANARY}"


@pytest.mark.parametrize(
    ("word", "code", "kind", "words"),
    [
        ("500", "E710", EndpointError, "got 500 the test says 500"),
        ("429:7", "E720", EndpointBusy, "429"),
        ("503", "E721", EndpointBusy, "503"),
        ("401", "E703", EndpointRefused, "SAGE_LLM_KEY"),
        ("reset", "E715", EndpointError, "before it answered"),
        ("abort:3", "E730", EndpointError, "E730"),
        ("not-http", "E731", EndpointError, "not HTTP"),
        ("gzip-bomb", "E731", EndpointError, "compressed"),
        ("silence", "E712", EndpointError, "first_byte_timeout_s"),
        ("stop:2", "E713", EndpointError, "between_chunks_timeout_s"),
        ("echo-key", "E703", EndpointRefused, "***"),
    ],
)
def test_each_fault_has_its_error(
    endpoint: MisbehavingEndpoint, word: str, code: str, kind: type[SageError], words: str
) -> None:
    endpoint.script([word])
    waits = word in ("silence", "stop:2")
    patience = {"first_byte_timeout_s": 0.4, "between_chunks_timeout_s": 0.3} if waits else {}
    with pytest.raises(SageError) as caught:
        with_client(poured, endpoint.url, key=CANARY, **patience)
    assert (caught.value.code, type(caught.value)) == (code, kind)
    assert words in str(caught.value)
    assert CANARY not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    if word == "429:7":
        assert isinstance(caught.value, EndpointBusy)
        assert caught.value.retry_after_s == 7


def test_what_the_endpoint_says_of_a_request_is_an_answer(endpoint: MisbehavingEndpoint) -> None:
    endpoint.script(["context"])
    assert b"maximum context length" in with_client(poured, endpoint.url)


def test_nobody_there_and_no_tls() -> None:
    with deaf_port_url() as url, pytest.raises(EndpointError, match="E711"):
        with_client(poured, url, connect_timeout_s=0.3)
    for url in (closed_port_url(), "http://no-such-host.invalid"):
        with pytest.raises(EndpointBusy, match="E722"):
            with_client(poured, url)
    with MisbehavingEndpoint() as endpoint, pytest.raises(EndpointRefused, match="E705"):
        with_client(poured, endpoint.url.replace("http:", "https:"))


def test_a_429_is_known_by_its_head_alone(endpoint: MisbehavingEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.llm.upstream.ERROR_BODY_TIMEOUT_S", 0.1)
    endpoint.script(["stalled-429"])
    with pytest.raises(EndpointBusy, match="E720"):
        with_client(poured, endpoint.url)


def test_a_redirect_is_not_followed(endpoint: MisbehavingEndpoint) -> None:
    with canary() as (url, visitors):
        endpoint.script([f"redirect:{url}"])
        with pytest.raises(EndpointRefused, match="E704"):
            with_client(poured, endpoint.url, key=CANARY)
    assert visitors == []


def test_who_leaves_early_frees_the_place_at_once(endpoint: MisbehavingEndpoint) -> None:
    async def leave(client: ChatClient) -> None:
        async with client.relay(PATH, STREAMED) as answer:
            assert b"word" in await answer.piece()
        assert await asyncio.to_thread(endpoint.abandoned.acquire, timeout=DEADLINE_S)
        assert b"[DONE]" in await poured(client)

    endpoint.script(["stop:1"])
    with_client(leave, endpoint.url)


def test_the_time_of_who_reads_slowly_is_not_the_endpoints(endpoint: MisbehavingEndpoint) -> None:
    patience_s = 1.0
    pauses = []

    async def rest() -> None:
        pauses.append(1)
        if len(pauses) == 1:
            await asyncio.sleep(1.5 * patience_s)

    async def pour(client: ChatClient) -> int:
        pieces: list[bytes] = []

        def take(piece: bytes) -> bool:
            pieces.append(piece)
            return bool(pauses)

        async with client.relay(PATH, STREAMED) as answer:
            await answer.pour(take, rest)
        return sum(map(len, pieces))

    endpoint.script(["huge-text"])
    read = with_client(pour, endpoint.url, between_chunks_timeout_s=patience_s, total_timeout_s=DEADLINE_S)
    assert read > 20 * 500_000
    assert pauses


def test_what_the_taker_raises_ends_it(endpoint: MisbehavingEndpoint) -> None:
    def refuses(piece: bytes) -> bool:
        raise KeyError(piece)

    async def pour(client: ChatClient) -> None:
        async with client.relay(PATH, STREAMED) as answer:
            await answer.pour(refuses, lambda: asyncio.sleep(0))

    with pytest.raises(KeyError):
        with_client(pour, endpoint.url)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
RAW: dict[bytes, bytes | str] = {
    HEAD + b"Content-Length: 3\r\n\r\nabc": b"abc",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n": b"abc",
    HEAD + b"\r\nabc": b"abc",
    b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 3\r\n\r\nabc": b"abc",
    HEAD + b"Content-Length: 4\r\n\r\nabc": "E730",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n": "E730",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n": "E731",
    HEAD + b"Content-Length: 3\r\n\r\nabc" + HEAD + b"Content-Length: 3\r\n\r\nxyz": "E731",
    HEAD + b"".join(b"X%d: %b\r\n" % (n, b"a" * 1000) for n in range(70)) + b"\r\n": "E731",
    b"": "E715",
}


async def heard(said: bytes, step: int) -> bytes | str:
    """What comes of an endpoint that says this, a few bytes at a time, and closes the connection."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            for start in range(0, len(said), step):
                writer.write(said[start : start + step])
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    try:
        async with ChatClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", model=MODEL) as client:
            return await pulled(client, b"{}")
    except EndpointError as error:
        return error.code
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("case", range(len(RAW)))
@pytest.mark.parametrize("step", [7, 100_000])
def test_http_as_it_may_and_may_not_be(case: int, step: int) -> None:
    said, expected = list(RAW.items())[case]
    assert asyncio.run(heard(said, step)) == expected


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: HEAD + b"Content-Length: 9\r\n\r\n" + tail))
@settings(max_examples=40)
def test_whatever_an_endpoint_says_is_an_answer_or_an_error(said: bytes) -> None:
    assert isinstance(asyncio.run(heard(said, 50)), bytes | str)


def test_a_connection_that_was_closed_meanwhile_is_not_used(endpoint: MisbehavingEndpoint) -> None:
    async def twice() -> None:
        upstream = Upstream(f"{endpoint.url}/v1", None, UNHURRIED)
        upstream.open()
        for _ in range(2):
            patience = Patience(UNHURRIED)
            async with patience.timer, upstream.ask(PATH, WHOLE, patience) as answer:
                while await answer.piece():
                    pass
            assert answer.status == 200
            for connection in upstream.idle:
                connection.abort()
        upstream.close()

    asyncio.run(twice())
    assert len({seen.peer for seen in endpoint.requests}) == 2
