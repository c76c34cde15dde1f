"""Faults on command, as SAGE's own client meets them; what the admin routes change while it runs."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from conftest import Wait
from llm.asking import ask
from patience import DEADLINE_S
from sage.errors import EndpointBusy, EndpointError, PipelineError, SageError
from sage.llm.simulated import PROFILES, Fault, SimulatedEndpoint

QUICK = {"first_byte_timeout_s": 0.3, "between_chunks_timeout_s": 0.3}
SHORT = {"prompt": "x", "max_tokens": 1}
LONG = {"prompt": "x", "max_tokens": 8000, "ignore_eos": True}
REQUEST = {"max_tokens": 30, "ignore_eos": True}


def failure(fault: str, request: dict[str, Any] | None = None, **limits: float) -> SageError:
    """What SAGE's client makes of the one request that `fault` befalls; the next one is well."""
    with SimulatedEndpoint("tiny", faults=[f"{fault}*1"]) as endpoint:
        with pytest.raises(SageError) as caught:
            ask(endpoint.url, request=request or REQUEST, model="tiny-model", **limits)
        assert ask(endpoint.url, request=REQUEST, model="tiny-model").text
    return caught.value


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["half", "stall", "cut", "reset", "silence", "garbage", "500", "drip=0.4", "503"])
def test_no_fault_is_taken_for_an_answer(fault: str, stream: bool) -> None:
    limits = QUICK if fault in ("stall", "silence", "drip=0.4") else {}
    error = failure(fault, {**REQUEST, "stream": stream}, **limits)
    assert isinstance(error, EndpointError)
    assert isinstance(error, EndpointBusy) == (fault == "503")


@pytest.mark.parametrize(("value", "waits_s"), [("=7", 7), ("", None), ("=nonsense", None), ("=1000000000", 300)])
def test_429_with_every_form_of_retry_after(value: str, waits_s: float | None) -> None:
    error = failure(f"429{value}")
    assert isinstance(error, EndpointBusy)
    assert error.retry_after_s == waits_s


def test_429_with_a_date() -> None:
    error = failure("429=date:100")
    assert isinstance(error, EndpointBusy)
    assert error.retry_after_s is not None
    assert 90 < error.retry_after_s < 110


class Noon:
    """A clock that stands."""

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 1_700_000_000.0


def test_the_date_is_one() -> None:
    date = Fault.parse("429=date:60").retry_after(Noon())
    assert date is not None
    assert parsedate_to_datetime(date) == datetime.fromisoformat("2023-11-14T22:14:20+00:00")


@pytest.mark.parametrize(
    "text", ["", "x", "200", "600", "500@2", "500@x", "500*-1", "drip=x", "drip=-1", "429=date:x", "429=\r\nX: y"]
)
def test_what_is_no_fault(text: str) -> None:
    with pytest.raises(PipelineError, match="E242"):
        Fault.parse(text)


def test_a_rate_is_a_rate_and_the_same_for_the_same_seed() -> None:
    def outcomes() -> list[int]:
        with SimulatedEndpoint("tiny", faults=["500@0.3"], seed=5) as endpoint:
            return [post(endpoint.url, "/v1/completions", SHORT)[0] for _ in range(60)]

    first = outcomes()
    assert first == outcomes()
    assert 8 <= first.count(500) <= 30


def post(url: str, path: str, body: object, token: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_everything_can_be_changed_while_it_runs() -> None:
    with SimulatedEndpoint("tiny", admin_token="t") as endpoint:
        url = endpoint.url
        assert post(url, "/admin/faults", {"faults": ["500"]}, "t")[1]["faults"] == ["500"]
        assert post(url, "/v1/completions", SHORT)[0] == 500
        assert post(url, "/admin/faults", {"faults": []}, "t")[0] == 200
        assert post(url, "/v1/completions", SHORT)[0] == 200
        assert post(url, "/admin/faults", {"faults": ["x"]}, "t")[0] == 400
        assert post(url, "/admin/capacity", {"factor": 0.5}, "t")[1]["capacity"] == 0.5
        assert post(url, "/admin/capacity", {"factor": 0}, "t")[0] == 400
        assert post(url, "/admin/capacity", {"factr": 1}, "t")[0] == 400
        assert post(url, "/admin/restart", {}, "t")[1]["capacity"] == 0.5
        assert post(url, "/admin/restart", {}, "wrong")[0] == 401


def test_half_the_capacity_is_half_the_throughput(wait_until: Wait) -> None:
    def seconds() -> float:
        """16 answers of 20 tokens at once: just before the peak; with half the capacity far beyond it."""
        start = time.monotonic()
        assert post(endpoint.url, "/v1/completions", {**LONG, "max_tokens": 20, "n": 16})[0] == 200
        return time.monotonic() - start

    with SimulatedEndpoint("peaked") as endpoint:
        endpoint.set_capacity(0.5)
        half_s = seconds()
        endpoint.set_capacity(1)
        wait_until(lambda: half_s > 1.5 * seconds())  # unless the machine was busy


def test_a_restart_drops_everything(wait_until: Wait) -> None:
    with SimulatedEndpoint("peaked", max_num_seqs=1) as endpoint:
        found: list[object] = []

        def call() -> None:
            try:
                found.append(post(endpoint.url, "/v1/completions", LONG))
            except ConnectionError as error:
                found.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: endpoint.snapshot().waiting == 2)
        endpoint.restart(down_s=60)
        for thread in threads:
            thread.join()
        assert [isinstance(one, ConnectionError) for one in found] == [True] * 3
        snapshot = endpoint.snapshot()
        assert (snapshot.running, snapshot.waiting, snapshot.steps) == (0, 0, 0)
        with pytest.raises(ConnectionError):
            post(endpoint.url, "/v1/completions", SHORT)
        with pytest.raises(ConnectionError):
            urllib.request.urlopen(f"{endpoint.url}/health")
        endpoint.restart()
        assert post(endpoint.url, "/v1/completions", SHORT)[0] == 200


def test_leaving_breaks_what_is_under_way(wait_until: Wait) -> None:
    ended = threading.Event()

    def call(url: str) -> None:
        with pytest.raises(ConnectionError):
            post(url, "/v1/completions", LONG)
        ended.set()

    with SimulatedEndpoint(PROFILES["peaked"]) as endpoint:
        thread = threading.Thread(target=call, args=(endpoint.url,))
        thread.start()
        wait_until(lambda: endpoint.snapshot().running == 1)
    assert ended.wait(DEADLINE_S)
    thread.join()
