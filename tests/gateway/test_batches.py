"""Files and batches, as the official client and as bare HTTP see them."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from behind import CHAT, MODEL, Said, ask, chat, gateway_for, keyed, used
from hypothesis import given
from hypothesis import strategies as st

from conftest import Wait
from endpoints import MODEL as SERVED
from endpoints import MisbehavingEndpoint
from sage.gateway import Gateway
from sage.gateway import batch as parts
from sage.llm.simulated import SimulatedEndpoint


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint("tiny") as running:
        yield running


def lines(count: int, **options: Any) -> bytes:
    return b"\n".join(line(f"q{number}", chat(f"Question {number}", **options)) for number in range(count))


def line(custom_id: str, body: object, url: str = CHAT) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode()


def upload(gateway: Gateway, content: bytes, purpose: str = "batch", name: bytes = b"in.jsonl", **headers: str) -> Said:
    pieces = [
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + purpose.encode(),
        b'\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n%b' % (name, content),
        b"\r\n--x--\r\n",
    ]
    return ask(gateway, "/v1/files", b"".join(pieces), Content_Type="multipart/form-data; boundary=x", **headers)


def create(gateway: Gateway, file: str, window: str = "24h", endpoint: str = CHAT, **headers: str) -> Said:
    body = {"input_file_id": file, "endpoint": endpoint, "completion_window": window}
    return ask(gateway, "/v1/batches", body, **headers)


def batch(gateway: Gateway, name: str, **headers: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(gateway, f"/v1/batches/{name}", **headers).json
    return found


def ended(gateway: Gateway, name: str, wait_until: Wait) -> dict[str, Any]:
    wait_until(lambda: batch(gateway, name)["status"] in ("completed", "failed", "expired", "cancelled"))
    return batch(gateway, name)


def results(gateway: Gateway, file: str | None) -> dict[str, Any]:
    assert file is not None
    said = ask(gateway, f"/v1/files/{file}/content").body
    return {each["custom_id"]: each for each in map(json.loads, said.splitlines())}


def test_the_official_client(endpoint: SimulatedEndpoint, wait_until: Wait) -> None:
    openai = pytest.importorskip("openai")
    with (
        gateway_for(endpoint.url) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
    ):
        file = client.files.create(file=("in.jsonl", lines(3)), purpose="batch")
        made = client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"who": "me"}
        )
        wait_until(lambda: client.batches.retrieve(made.id).status == "completed")
        whole = client.batches.retrieve(made.id)
        assert (whole.request_counts.total, whole.request_counts.completed, whole.metadata) == (3, 3, {"who": "me"})
        assert whole.error_file_id is None
        said = [json.loads(each) for each in client.files.content(whole.output_file_id).text.splitlines()]
        assert {each["custom_id"] for each in said} == {"q0", "q1", "q2"}
        assert all(each["response"]["body"]["usage"]["completion_tokens"] == 5 for each in said)
        assert [each.id for each in client.batches.list()] == [made.id]
        assert {each.id for each in client.files.list()} == {file.id, whole.output_file_id}
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        with pytest.raises(openai.BadRequestError):
            client.files.create(file=("in.jsonl", b"{}"), purpose="fine-tune")


def test_a_request_that_is_wrong_is_an_error_and_the_others_are_answered(
    endpoint: SimulatedEndpoint, wait_until: Wait
) -> None:
    content = [
        line("good", chat()),
        line("unknown", chat() | {"model": "other"}),
        line("wrong", chat(n=17)),
        line("stream", chat(stream=True)),
    ]
    with gateway_for(endpoint.url) as gateway:
        found = ended(gateway, create(gateway, upload(gateway, b"\n".join(content)).json["id"]).json["id"], wait_until)
        assert found["status"] == "completed"
        assert found["request_counts"] == {"total": 4, "completed": 1, "failed": 3}
        assert results(gateway, found["output_file_id"]).keys() == {"good"}
        errors = results(gateway, found["error_file_id"])
        codes = {name: each["response"]["status_code"] for name, each in errors.items()}
        assert codes == {"unknown": 404, "wrong": 400, "stream": 400}
    (spent,) = used(gateway, "model")
    assert (spent.model, spent.requests, spent.completion_tokens) == (MODEL, 1, 5)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"nonsense\n\xff", "invalid_line"),
        (line("a", chat(), "/v1/embeddings"), "invalid_line"),
        (line("a", chat()) + b"\n" + line("a", chat()), "invalid_line"),
        (b'{"custom_id": "' + b"a" * (1 << 20) + b'"}', "invalid_line"),
    ],
    ids=["empty", "nonsense", "another endpoint", "twice", "a long line"],
)
def test_a_file_that_is_wrong_fails_the_batch(
    content: bytes, code: str, endpoint: SimulatedEndpoint, wait_until: Wait
) -> None:
    with gateway_for(endpoint.url) as gateway:
        found = ended(gateway, create(gateway, upload(gateway, content).json["id"]).json["id"], wait_until)
    assert found["status"] == "failed"
    assert found["errors"]["data"][0]["code"] == code


def test_it_survives_a_restart_and_pays_for_nothing_twice(endpoint: SimulatedEndpoint, wait_until: Wait) -> None:
    with gateway_for(endpoint.url) as gateway:
        endpoint.set_faults("silence@0.5")
        name = create(gateway, upload(gateway, lines(40)).json["id"]).json["id"]
        wait_until(lambda: batch(gateway, name)["request_counts"]["completed"] >= 4)
    endpoint.set_faults()
    (journal,) = Path("batches").glob("*.results")
    with journal.open("ab") as file:
        file.write(b'{"id": "half a li')
    before = sum(each.requests - each.failed for each in used(gateway))
    with gateway_for(endpoint.url) as gateway:
        found = ended(gateway, name, wait_until)
        assert found["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
        assert results(gateway, found["output_file_id"]).keys() == {f"q{number}" for number in range(40)}
    assert before >= 4
    assert sum(each.requests - each.failed for each in used(gateway)) == 40


def test_a_folder_that_was_damaged_costs_that_batch_and_nothing_else(
    endpoint: SimulatedEndpoint, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway_for(endpoint.url) as gateway:
        endpoint.set_faults("silence")
        name = create(gateway, upload(gateway, lines(2)).json["id"]).json["id"]
        wait_until(lambda: list(Path("batches").glob("*.results")))
    endpoint.set_faults()
    (journal,) = Path("batches").glob("*.results")
    journal.write_bytes(b"nonsense\n")
    with gateway_for(endpoint.url) as gateway:
        found = ended(gateway, name, wait_until)
        assert (found["status"], found["errors"]["data"][0]["code"]) == ("failed", "storage_error")
        assert ask(gateway, CHAT, chat()).status == 200
        other = create(gateway, upload(gateway, lines(2)).json["id"]).json["id"]
        assert ended(gateway, other, wait_until)["status"] == "completed"
    Path("batches", f"{name}.json").write_bytes(b"nonsense\xff")
    with gateway_for(endpoint.url) as gateway:
        assert [batch["id"] for batch in ask(gateway, "/v1/batches").json["data"]] == [other]
        assert ask(gateway, f"/v1/batches/{name}").status == 404
        assert ask(gateway, CHAT, chat()).status == 200
    assert f"{name}.json" in caplog.text
    assert Path("batches", f"{name}.json").read_bytes() == b"nonsense\xff"


def test_a_batch_that_is_cancelled_says_what_was_not_sent(endpoint: SimulatedEndpoint, wait_until: Wait) -> None:
    endpoint.set_faults("silence@0.5")
    with gateway_for(endpoint.url) as gateway:
        file = upload(gateway, lines(30)).json["id"]
        name = create(gateway, file).json["id"]
        wait_until(lambda: batch(gateway, name)["request_counts"]["completed"])
        assert ask(gateway, f"/v1/files/{file}", method="DELETE").status == 409
        assert ask(gateway, f"/v1/batches/{name}/cancel", {}).json["status"] in ("cancelling", "cancelled")
        found = ended(gateway, name, wait_until)
        assert found["status"] == "cancelled"
        errors = results(gateway, found["error_file_id"])
        assert {each["error"]["code"] for each in errors.values()} == {"batch_cancelled"}
        assert len(errors) + len(results(gateway, found["output_file_id"])) == 30
        assert ask(gateway, f"/v1/batches/{name}/cancel", {}).json["status"] == "cancelled"
        wait_until(lambda: not endpoint.snapshot().running)


def test_a_batch_that_takes_too_long_expires(endpoint: SimulatedEndpoint, wait_until: Wait) -> None:
    endpoint.set_faults("silence")
    with gateway_for(endpoint.url) as gateway:
        found = ended(gateway, create(gateway, upload(gateway, lines(2)).json["id"], "1s").json["id"], wait_until)
        assert found["status"] == "expired"
        assert {each["error"]["code"] for each in results(gateway, found["error_file_id"]).values()} == {
            "batch_expired"
        }


def test_others_do_not_see_them_and_nothing_leaves_the_folder(endpoint: SimulatedEndpoint) -> None:
    (alice, a), (bob, b) = keyed("alice"), keyed("bob")
    with gateway_for(endpoint.url, key=(a, b)) as gateway:
        file = upload(gateway, lines(1), Authorization=alice).json["id"]
        name = create(gateway, file, Authorization=alice).json["id"]
        assert ask(gateway, f"/v1/files/{file}").status == 401
        for path in (f"/v1/files/{file}", f"/v1/files/{file}/content", f"/v1/batches/{name}"):
            assert ask(gateway, path, Authorization=bob).status == 404
            assert ask(gateway, path, Authorization=alice).status == 200
        assert create(gateway, file, Authorization=bob).status == 404
        assert ask(gateway, "/v1/files", Authorization=bob).json["data"] == []
        for path in ("/v1/files/..%2flock/content", "/v1/files/%2e%2e/content", "/v1/batches/..%2f..%2fusage"):
            assert ask(gateway, path, Authorization=alice).status == 404
    assert Path("batches").stat().st_mode & 0o777 == 0o700


def test_bad_requests(endpoint: SimulatedEndpoint) -> None:
    with gateway_for(endpoint.url, batch_bytes=2000) as gateway:
        assert upload(gateway, b"a" * 3000).status == 413
        assert ask(gateway, "/v1/files", b"{}", Content_Type="application/json").status == 415
        assert ask(gateway, "/v1/files", b"--x", Content_Type="multipart/form-data; boundary=x").status == 400
        assert ask(gateway, "/v1/files", b"x", Content_Type="multipart/form-data").status == 400
        file = upload(gateway, lines(1)).json["id"]
        assert create(gateway, file, "a while").error["param"] == "completion_window"
        assert create(gateway, file, endpoint="/v1/models").error["param"] == "endpoint"
        assert create(gateway, "file-" + "0" * 24).error["code"] == "file_not_found"
        assert ask(gateway, "/v1/batches", b"[]", method="POST").status == 400
        assert ask(gateway, "/v1/batches?limit=x").error["param"] == "limit"
        assert ask(gateway, "/v1/batches?after=x").error["param"] == "after"
        with gateway_for(endpoint.url) as second:
            assert ask(second, "/v1/batches").error["code"] == "no_batches"
            assert ask(second, CHAT, chat()).status == 200
    assert not list(Path("batches").glob("*.part"))


@given(
    st.binary(max_size=40)
    | st.recursive(st.text() | st.floats(), st.lists).map(lambda v: json.dumps(v, indent=1).encode())
)
def test_whatever_an_endpoint_answers_is_one_line_that_can_be_read(body: bytes) -> None:
    kept = msgspec.json.encode(parts.ended("q", 200, body))
    assert b"\n" not in kept
    read = parts.read_result(kept)
    assert read.good
    assert read.response is not None
    assert json.loads(kept)["response"]["body"] == json.loads(bytes(read.response.body))


def test_the_oldest_of_many_that_have_ended_are_forgotten(
    endpoint: SimulatedEndpoint, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage.gateway.batch_routes.MAX_ENDED", 2)
    with gateway_for(endpoint.url) as gateway:
        file = upload(gateway, lines(1)).json["id"]
        made = []
        for _ in range(4):
            made.append(create(gateway, file).json["id"])
            assert ended(gateway, made[-1], wait_until)["output_file_id"]
        kept = [each["id"] for each in ask(gateway, "/v1/batches").json["data"]]
        assert kept == made[:0:-1]
        assert ask(gateway, f"/v1/batches/{made[0]}").status == 404
        assert len(ask(gateway, "/v1/files").json["data"]) == 5


def test_uploads_at_once_share_the_room(endpoint: SimulatedEndpoint) -> None:
    with gateway_for(endpoint.url, batch_bytes=5 << 20) as gateway, ThreadPoolExecutor(4) as threads:
        sent = list(threads.map(lambda _: upload(gateway, b"x" * (3 << 20)).status, range(4)))
        assert sent.count(200) <= 1
        assert set(sent) <= {200, 413}


def test_an_answer_on_many_lines_and_one_that_was_filtered(wait_until: Wait) -> None:
    with MisbehavingEndpoint() as endpoint, gateway_for(endpoint.url) as gateway:
        endpoint.script(["indented", "policy-403", "json"])
        file = upload(gateway, lines(3, stream=False, model=SERVED), name=b"\xff\xfe.jsonl")
        assert file.status == 200
        found = ended(gateway, create(gateway, file.json["id"]).json["id"], wait_until)
        assert found["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        (failed,) = results(gateway, found["error_file_id"]).values()
        assert failed["response"]["body"]["error"]["code"] == "content_filter"
        assert ask(gateway, "/v1/batches?limit=" + "0" * 4409 + "5").status == 400
    (booked,) = used(gateway)
    assert (booked.requests, booked.failed) == (3, 1)
