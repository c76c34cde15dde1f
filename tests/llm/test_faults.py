"""The client against an endpoint that misbehaves: each fault has its own error, and nothing short is ever an answer."""

import asyncio
import email.utils
import gc
import logging
import os
import sys
import threading
import time

import aiohttp
import pytest
from asking import QUESTION, ask, refusal, with_client

from conftest import Wait
from endpoints import MODEL, MisbehavingEndpoint, canary, closed_port_url, deaf_port_url
from patience import DEADLINE_S
from sage.errors import EndpointBusy, EndpointError, EndpointRefused, MissingDependency, RecordError, SageError
from sage.llm import faults
from sage.llm.answer import Patience, Timeouts
from sage.llm.client import ChatClient
from sage.settings import Secret

CANARY = "sk-canary-7d1f"
QUICK = {"first_byte_timeout_s": 1.0, "between_chunks_timeout_s": 1.0}


@pytest.mark.parametrize(
    ("word", "code", "kind", "words"),
    [
        ("500", "E710", EndpointError, "got 500 the test says 500"),
        ("502", "E710", EndpointError, "502"),
        ("504", "E710", EndpointError, "504"),
        ("204", "E710", EndpointError, "204"),
        ("408", "E710", EndpointError, "408"),
        ("text-500", "E710", EndpointError, "got 500 Internal Server Error"),
        ("429", "E720", EndpointBusy, "429"),
        ("503", "E721", EndpointBusy, "503"),
        ("529", "E721", EndpointBusy, "529"),
        ("reset", "E715", EndpointError, "before it answered"),
        ("400", "E470", RecordError, "got 400 the test says 400"),
        ("422", "E470", RecordError, "422"),
        ("413", "E471", RecordError, "413"),
        ("context", "E471", RecordError, "maximum context length is 4096 tokens"),
        ("policy", "E472", RecordError, "The prompt was filtered"),
        ("filtered", "E472", RecordError, "withheld the answer"),
        ("vllm-400", "E470", RecordError, "max_tokens is too large"),
        ("detail-422", "E470", RecordError, "Field required"),
        ("401", "E703", EndpointRefused, "SAGE_LLM_KEY"),
        ("403", "E703", EndpointRefused, "SAGE_LLM_KEY"),
        ("404", "E703", EndpointRefused, "llm_url"),
        ("405", "E703", EndpointRefused, "llm_url"),
        ("unknown-model", "E703", EndpointRefused, "The model `x` does not exist."),
        ("quota", "E703", EndpointRefused, "quota"),
        ("redirect:/elsewhere", "E704", EndpointRefused, "got 307 to /elsewhere"),
        ("cut:0", "E730", EndpointError, "[DONE]"),
        ("cut:3", "E730", EndpointError, "[DONE]"),
        ("half-line", "E730", EndpointError, "[DONE]"),
        ("no-reason", "E730", EndpointError, "no finish_reason"),
        ("abort:3", "E730", EndpointError, "E730"),
        ("not-http", "E731", EndpointError, "E731"),
        ("gzip-bomb", "E731", EndpointError, "compressed"),
        ("bad-utf8", "E732", EndpointError, "E732"),
        ("surrogate", "E732", EndpointError, "E732"),
        ("nan", "E732", EndpointError, "E732"),
        ("html", "E732", EndpointError, "E732"),
        ("empty", "E732", EndpointError, "E732"),
        ("wrong-type", "E733", EndpointError, "Expected `str | null`, got `int`"),
        ("no-choices", "E733", EndpointError, "E733"),
        ("deep", "E733", EndpointError, "E733"),
        ("error-200", "E734", EndpointError, "upstream failed"),
        ("error-chunk", "E734", EndpointError, "engine died"),
        ("huge", "E735", EndpointError, "8388608"),
        ("huge-line", "E735", EndpointError, "1048576"),
        ("huge-text", "E735", EndpointError, "8388608"),
    ],
)
def test_each_fault_has_its_error(
    endpoint: MisbehavingEndpoint, word: str, code: str, kind: type[SageError], words: str
) -> None:
    endpoint.script([word])
    error = refusal(endpoint.url)
    assert (error.code, type(error)) == (code, kind)
    assert words in str(error)
    assert error.at == f"{endpoint.url}/v1/chat/completions"
    assert len(endpoint.requests) == 1
    assert error.fatal is (kind is EndpointRefused)


@pytest.mark.parametrize("word", ["bad-utf8", "surrogate", "nan", "wrong-type", "no-choices", "deep", "html"])
def test_garbage_that_is_not_streamed_is_found_too(endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word])
    assert refusal(endpoint.url, request={"stream": False}).code in ("E730", "E732", "E733")


@pytest.mark.parametrize(
    ("word", "code", "limits"),
    [
        ("silence", "E712", {"first_byte_timeout_s": 0.3}),
        ("headers", "E712", {"first_byte_timeout_s": 0.3}),
        ("stop:2", "E713", {"between_chunks_timeout_s": 0.3}),
        ("silence", "E714", {"total_timeout_s": 0.2}),
        ("stop:2", "E714", {"total_timeout_s": 0.25}),
        ("drip:0.02", "E714", {"total_timeout_s": 0.3}),
    ],
)
def test_each_phase_has_its_timeout(
    endpoint: MisbehavingEndpoint, word: str, code: str, limits: dict[str, float]
) -> None:
    endpoint.script([word])
    error = refusal(endpoint.url, **limits)
    assert (error.code, type(error)) == (code, EndpointError)
    assert "_timeout_s = 0." in str(error)
    assert endpoint.abandoned.acquire(timeout=DEADLINE_S)


def test_no_connection_in_time() -> None:
    with deaf_port_url() as url:
        error = refusal(url, connect_timeout_s=0.3)
    assert (error.code, type(error)) == ("E711", EndpointError)


@pytest.mark.parametrize("url", [None, "http://no-such-host.invalid"])
def test_nobody_there_is_not_a_failure_of_the_record(url: str | None) -> None:
    error = refusal(url or closed_port_url())
    assert (error.code, type(error)) == ("E722", EndpointBusy)


def test_tls_where_there_is_none(endpoint: MisbehavingEndpoint) -> None:
    error = refusal(endpoint.url.replace("http:", "https:"))
    assert (error.code, type(error)) == ("E705", EndpointRefused)


def test_a_429_is_known_by_its_headers_alone(endpoint: MisbehavingEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.llm.answer.ERROR_BODY_TIMEOUT_S", 0.1)
    endpoint.script(["stalled-429"])
    error = refusal(endpoint.url, first_byte_timeout_s=0.5)
    assert isinstance(error, EndpointBusy)
    assert error.retry_after_s == 7


@pytest.mark.parametrize("status", ["429", "503"])
@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        ("2", 2.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("1e9", 300.0),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(endpoint: MisbehavingEndpoint, status: str, value: str, expected_s: float | None) -> None:
    endpoint.script([f"{status}:{value}"])
    error = refusal(endpoint.url)
    assert isinstance(error, EndpointBusy)
    assert error.retry_after_s == expected_s


@pytest.mark.parametrize(("ahead_s", "expected_s"), [(20, 20.0), (86_400, 300.0), (-20, None)])
def test_retry_after_a_date_counts_from_the_servers_own_clock(ahead_s: int, expected_s: float | None) -> None:
    for now in (time.time(), 0.0, 4e9):
        date, until = (email.utils.formatdate(moment, usegmt=True) for moment in (now, now + ahead_s))
        headers = {"Date": date, "Retry-After": until}
        assert faults.retry_after_s(headers) == expected_s


def test_retry_after_a_date_from_a_real_server(endpoint: MisbehavingEndpoint) -> None:
    endpoint.script(["429:" + email.utils.formatdate(time.time() + 100, usegmt=True)])
    error = refusal(endpoint.url)
    assert isinstance(error, EndpointBusy)
    assert error.retry_after_s is not None
    assert 60 < error.retry_after_s <= 101


def test_a_redirect_is_not_followed(endpoint: MisbehavingEndpoint) -> None:
    with canary() as (url, visitors):
        endpoint.script([f"redirect:{url}"])
        assert refusal(endpoint.url, key=CANARY).code == "E704"
    assert visitors == []


def test_proxies_of_the_environment_are_not_used(
    endpoint: MisbehavingEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with canary() as (url, visitors):
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, url)
        assert ask(endpoint.url, key=CANARY).text == "ok: why?"
    assert visitors == []


@pytest.mark.parametrize(
    "word", ["echo-key", "401", "not-http", "reset", "abort:1", "silence", "html", "429", "context"]
)
def test_a_key_is_in_no_error_and_no_log(
    endpoint: MisbehavingEndpoint, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.script([word])
    error: BaseException | None = refusal(endpoint.url, key=CANARY, **QUICK)
    assert endpoint.requests[0].headers["Authorization"] == f"Bearer {CANARY}"
    assert error is not None
    assert error.__cause__ is None
    assert CANARY not in f"{error} {error!r} {vars(error)} {caplog.text}"


def test_a_client_works_on_after_every_fault(endpoint: MisbehavingEndpoint) -> None:
    words = ["500", "429:1", "reset", "abort:1", "cut:1", "huge", "not-http", "wrong-type", "silence", "stop:1"]

    async def ask_on(client: ChatClient) -> list[str]:
        outcomes = []
        for _ in range(len(words) + 1):
            try:
                outcomes.append((await client.complete(QUESTION)).text)
            except EndpointError as error:
                outcomes.append(error.code)
        return outcomes

    endpoint.script(words)
    outcomes = with_client(ask_on, endpoint.url, **QUICK)
    assert outcomes[-1] == "ok: why?"
    assert outcomes[:-1] == ["E710", "E720", "E715", "E730", "E730", "E735", "E731", "E733", "E712", "E713"]


def test_nothing_is_left_open(wait_until: Wait) -> None:
    descriptors, threads = len(os.listdir("/dev/fd")), set(threading.enumerate())

    def is_as_before() -> bool:
        gc.collect()
        return len(os.listdir("/dev/fd")) <= descriptors and set(threading.enumerate()) <= threads

    async def ask_all(client: ChatClient) -> None:
        await asyncio.gather(*[client.complete(QUESTION) for _ in range(8)], return_exceptions=True)

    with MisbehavingEndpoint() as endpoint:
        endpoint.script(["ok", "500", "abort:1", "huge", "silence", "stop:1", "reset", "stalled-429"])
        with_client(ask_all, endpoint.url, **QUICK)
        assert len(endpoint.requests) == 8
    wait_until(is_as_before)


def test_calls_in_flight_fail_when_the_client_is_closed(endpoint: MisbehavingEndpoint) -> None:
    async def ask_and_close(client: ChatClient) -> None:
        call = asyncio.create_task(client.complete(QUESTION))
        while not endpoint.requests:
            await asyncio.sleep(0.001)
        await client.close()
        with pytest.raises(EndpointError):
            await call

    endpoint.script(["silence"])
    with_client(ask_and_close, endpoint.url)


def all_kinds(cls: type[Exception]) -> list[type[Exception]]:
    return [cls, *(kind for child in cls.__subclasses__() for kind in all_kinds(child))]


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("kind", [*all_kinds(aiohttp.ClientError), TimeoutError, ConnectionResetError, OSError])
def test_no_error_of_the_http_library_is_missed(kind: type[Exception], answered: bool) -> None:
    plain = {"__init__": lambda self: None, "__str__": lambda self: f"Bearer {CANARY}"}
    foreign = type("Foreign", (kind,), plain)()
    assert isinstance(foreign, faults.foreign())

    async def translated() -> EndpointError:
        patience = Patience(Timeouts(1.0, 1.0, 1.0, 2.0))
        patience.answered = answered
        return faults.of_exception(foreign, at="here", patience=patience, key=Secret(CANARY))

    error = asyncio.run(translated())
    assert error.code in (faults.__doc__ or "")
    assert CANARY not in str(error)


class TestCheck:
    """`check` tells, before anything is paid for, whether an endpoint can work."""

    def test_it_names_what_is_served(self, endpoint: MisbehavingEndpoint) -> None:
        assert with_client(ChatClient.check, endpoint.url) == (MODEL,)
        assert endpoint.requests == []

    @pytest.mark.parametrize("url", [None, "http://no-such-host.invalid"])
    def test_nobody_there(self, url: str | None) -> None:
        url = url or closed_port_url()
        with pytest.raises(EndpointError) as caught:
            with_client(ChatClient.check, url)
        assert (caught.value.code, type(caught.value)) == ("E701", EndpointError)
        assert url in str(caught.value)

    @pytest.mark.parametrize("status", [400, 404, 405, 429, 501, 503])
    def test_an_endpoint_without_a_list_passes(self, status: int) -> None:
        with MisbehavingEndpoint(models=status) as endpoint:
            assert with_client(ChatClient.check, endpoint.url) == ()

    def test_a_wrong_key(self) -> None:
        with MisbehavingEndpoint(key="sk-right") as endpoint:
            assert with_client(ChatClient.check, endpoint.url, key="sk-right") == (MODEL,)
            with pytest.raises(EndpointRefused, match="E703"):
                with_client(ChatClient.check, endpoint.url, key="sk-wrong")
            with pytest.raises(EndpointRefused, match="E703"):
                with_client(ChatClient.check, endpoint.url)

    def test_a_model_that_is_not_listed_is_tried_once(self, endpoint: MisbehavingEndpoint) -> None:
        assert with_client(ChatClient.check, endpoint.url, model="other-name") == (MODEL,)
        assert [request.body["max_tokens"] for request in endpoint.requests] == [1]

    def test_a_model_that_is_unknown(self, endpoint: MisbehavingEndpoint) -> None:
        endpoint.script(["unknown-model"])
        with pytest.raises(EndpointRefused, match=rf"does not exist.*, expected one of {MODEL}\. Try: "):
            with_client(ChatClient.check, endpoint.url, model="x")

    def test_an_endpoint_that_lists_nothing_needs_a_model(self) -> None:
        with MisbehavingEndpoint(models=[]) as endpoint:
            assert refusal(endpoint.url, model=None).code == "E703"


def test_aiohttp_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingDependency, match=r"pip install aiohttp, or SAGE with its extra \[llm\]"):
        ask("http://127.0.0.1:8001")
