"""The HTTP API: what it answers, to whom, and how much it takes."""

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.managers import QUICK, Managed
from patience import DEADLINE_S
from sage.errors import StorageError, UsageError
from sage.jobs.admission import Capacity
from sage.jobs.api import ROUTES, Api
from sage.jobs.client import Client
from sage.jobs.folder import StateFolder
from sage.jobs.manager import Manager
from sage.jobs.openapi import openapi
from sage.jobs.server import MAX_BODY_BYTES, Servers
from sage.jobs.store import Store

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Managed, int]]:
    """One manager for all tests that start no job, and its port."""
    managed = Managed(tmp_path_factory.mktemp("served"))
    port = managed.start("--port", "0")
    assert port is not None
    yield managed, port
    managed.close()


@pytest.fixture
def token(served: tuple[Managed, int]) -> str:
    return served[0].folder.token.read_text()


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str | None] | None = None
) -> tuple[int, dict[str, Any]]:
    """One request through the port; a header that is None is not sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.putrequest(method, path, skip_host=True)
    given = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(body or b""))} | dict(headers or {})
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    text = response.read().decode()
    is_json = response.getheader("Content-Type") == "application/json"
    answer = json.loads(text) if is_json else {"text": text}
    connection.close()
    return response.status, answer


def raw(port: int, data: bytes) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


def fits(value: object, schema: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether `value` is as `schema` says: the few words of JSON Schema that the document uses."""
    if "$ref" in schema:
        return fits(value, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "anyOf" in schema:
        return any(fits(value, one, document) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
        "number": (int, float),
    }  # fmt: skip
    if not isinstance(value, kinds[schema["type"]]):
        return False
    if isinstance(value, list):
        return all(fits(one, schema["items"], document) for one in value)
    if isinstance(value, dict) and "properties" in schema:
        return set(schema["required"]) <= set(value) <= set(schema["properties"]) and all(
            fits(one, schema["properties"][name], document) for name, one in value.items()
        )
    return True


def test_every_route_answers_as_the_document_says(managed: Managed) -> None:
    managed.folder.make()
    managed.folder.token.touch(0o600)  # emptied by a crash: it is made anew
    port = managed.start("--port", "0")
    assert port is not None
    bearer = {"Authorization": f"Bearer {managed.folder.token.read_text()}"}
    status, document = ask(port, "GET", "/v1/openapi.json", headers=bearer)
    assert (status, document) == (200, json.loads(json.dumps(openapi(ROUTES))))
    (managed.where / "flow.py").write_text(QUICK)
    spec = {"file": str(managed.where / "flow.py"), "folder": str(managed.where), "start_delay_s": 3600}
    job = ""
    seen = set()
    for method, path, expected in [
        ("GET", "/v1/manager", 200), ("POST", "/v1/jobs", 201), ("GET", "/v1/jobs", 200), ("GET", "/v1/jobs/{id}", 200),
        ("POST", "/v1/jobs/{id}/limit", 200), ("POST", "/v1/jobs/{id}/stop", 200),
        ("POST", "/v1/jobs/{id}/resume", 200), ("GET", "/v1/jobs/{id}/log", 200),
        ("GET", "/v1/jobs/{id}", 200), ("GET", "/v1/metrics", 200), ("DELETE", "/v1/jobs/{id}", 200),
        ("GET", "/v1/openapi.json", 200),
        ("DELETE", "/v1/jobs/{id}", 404),
    ]:  # fmt: skip
        if path.endswith("/log"):
            managed.end_of(job)
        bodies = {"/v1/jobs": spec, "/v1/jobs/{id}/limit": {"max_in_flight": 5}}
        body = json.dumps(bodies[path]).encode() if method == "POST" and path in bodies else None
        status, answer = ask(port, method, path.replace("{id}", job), body, bearer)
        assert status == expected, (method, path, answer)
        responses = document["paths"][path][method.lower()]["responses"]
        described = responses.get(str(status), responses["default"])
        ((media, content),) = described["content"].items()
        if media == "application/json":
            assert fits(answer, content["schema"], document), (method, path, answer)
        else:
            assert f'sage_job_records_written{{job="{job}",job_name="flow",user="' in answer["text"]
        seen.add((method, path))
        job = answer.get("id", job)
    assert seen == {(route.method, route.path) for route in ROUTES}
    assert seen == {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401), ("", 401), ("Bearer", 401), ("Bearer ", 401), ("Bearer wrong", 401), ("Basic {token}", 401),
        ("bearer {token}", 401), ("Bearer {token} ", 401), ("Bearer {token}x", 401), ("Bearer ' OR 1=1 --", 401),
        ("Bearer {token}", 200),
    ],
)  # fmt: skip
def test_a_port_wants_the_token(
    served: tuple[Managed, int], token: str, authorization: str | None, status: int
) -> None:
    for route in ROUTES:
        headers = {"Authorization": None if authorization is None else authorization.format(token=token)}
        found, answer = ask(served[1], route.method, route.path.replace("{id}", "0123abcd"), headers=headers)
        assert (found == 401) == (status == 401)
        if status == 401:
            assert answer["error"]["code"] == "E146"
            assert token not in json.dumps(answer)


def test_an_empty_token_opens_nothing(managed: Managed) -> None:
    managed.folder.make()
    store = Store(managed.folder.database)
    manager = Manager(managed.folder, store, capacity=Capacity(1), say=lambda text: None)
    servers = Servers(Api(manager, managed.folder), managed.folder, 0, "")
    assert servers.port is not None
    assert ask(servers.port, "GET", "/v1/manager", headers={"Authorization": "Bearer "})[0] == 401
    servers.close()
    manager.close()
    store.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": None}, {"Host": "127.0.0.1"}, {"Host": "127.0.0.1:{port}@evil"},
        {"Host": "evil.example:{port}"}, {"Host": "127.0.0.1:{port}#"}, {"Origin": "http://evil.example"},
        {"Origin": "null"}, {"Origin": "https://127.0.0.1:{port}"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_pages_of_elsewhere_are_refused(
    served: tuple[Managed, int], token: str, headers: dict[str, str | None], method: str
) -> None:
    port = served[1]
    given = {name: value and value.format(port=port) for name, value in headers.items()}
    assert ask(port, method, "/v1/jobs", headers={"Authorization": f"Bearer {token}"} | given)[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/v1", 404), ("GET", "//v1/jobs", 404), ("GET", "/v1/jobs/", 404),
        ("GET", "/v1/jobs/../manager", 404), ("GET", "/v1/%6aobs", 404), ("PUT", "/v1/jobs", 405),
        ("PATCH", "/v1/jobs/0123abcd", 405), ("DELETE", "/v1/manager", 405), ("OPTIONS", "/v1/jobs", 405),
        ("GET", "/v1/jobs/..", 400), ("GET", "/v1/jobs/..%2f..%2fx", 400), ("GET", "/v1/jobs/0123ABCD", 400),
        ("GET", "/v1/jobs/0123abcd0", 400), ("GET", "/v1/jobs/0123abcd'", 400), ("GET", "/v1/jobs/0123abcd", 404),
        ("GET", "/v1/jobs?x=1", 400), ("GET", "/v1/jobs/0123abcd/log?offset=-1", 400),
        ("GET", "/v1/jobs/0123abcd/log?wait_s=1e9", 400), ("GET", "/v1/jobs/0123abcd/log?wait_s=21", 400),
        ("GET", "/v1/jobs?" + "a=b&" * 500, 400),
    ],
)  # fmt: skip
def test_what_there_is_not(served: tuple[Managed, int], token: str, method: str, path: str, status: int) -> None:
    found, answer = ask(served[1], method, path, headers={"Authorization": f"Bearer {token}"})
    assert found == status
    assert answer["error"]["text"].startswith(answer["error"]["code"])


SPEC = {"file": str(Path(__file__)), "folder": "/"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "JSON object"), (b"{", 400, "not JSON"), (b"[]", 422, "JSON object"), (b"\xff", 400, "not JSON"),
        (b'{"file": NaN}', 400, "not JSON"), (b"[" * 100_000, 400, "not JSON"), (b"{}", 422, "missing at file"),
        (b'{"a": 1}', 422, "no such field: got a"),
        *(
            (json.dumps(SPEC | wrong).encode(), 422, next(iter(wrong)))
            for wrong in (
                {"file": 1}, {"file": "flow.py"}, {"file": "/no/such/file"}, {"file": "/"}, {"folder": "/no/such"},
                {"file": "/dev/null"}, {"folder": "/etc/passwd"}, {"name": "../x"}, {"name": "x" * 65},
                {"name": "<script>"}, {"name": "\u202e"}, {"arguments": "x"}, {"arguments": ["\ud800"]},
                {"arguments": ["\0"]}, {"priority": -1}, {"priority": 10}, {"priority": True}, {"priority": "5"},
                {"start_delay_s": -1}, {"start_delay_s": 1e99}, {"start_delay_s": "1"}, {"processes": 1.5},
                {"engine": "spark"}, {"append": 1}, {"python": "python"}, {"sha256": "0"}, {"max_dead_letters": -1},
            )
        ),
        (json.dumps(SPEC | {"id": "../../x"}).encode(), 400, "not the id"),
        (json.dumps(SPEC | {"id": 7}).encode(), 400, "not the id"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_meant(
    served: tuple[Managed, int], token: str, body: bytes, status: int, said: str
) -> None:
    managed, port = served
    found, answer = ask(port, "POST", "/v1/jobs", body, {"Authorization": f"Bearer {token}"})
    assert (found, said in answer["error"]["text"] or "path of the job" in answer["error"]["text"]) == (status, True)
    assert managed.client.list() == []
    assert managed.folder.ids() == []


def test_a_request_is_bounded(served: tuple[Managed, int], token: str) -> None:
    port = served[1]
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n".encode()
    for rest, status in [
        (b"Content-Length: 100000000\r\n\r\n", b"413"),
        (b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), b"413"),
        (b"Content-Length: -1\r\n\r\n", b"400"),
        (b"Content-Length: 99999999999999999999\r\n\r\n", b"400"),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", b"411"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"Content-Length: 10\r\n\r\n{}", b"400"),
        (b"X: " + b"x" * 70_000 + b"\r\n\r\n", b"431"),
        (b"X: y\r\n" * 200 + b"\r\n", b"431"),
    ]:
        assert raw(port, head + rest).split()[1] == status, rest[:60]
    assert raw(port, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n").split()[1] == b"414"
    assert b'"E146"' in raw(port, b"nonsense\r\n\r\n")
    assert raw(port, b"") == b""
    assert ask(port, "GET", "/v1/manager", headers={"Authorization": f"Bearer {token}"})[0] == 200


def test_clients_that_say_nothing_do_not_keep_others_out(served: tuple[Managed, int]) -> None:
    silent = [socket.create_connection(("127.0.0.1", served[1])) for _ in range(40)]
    assert served[0].client.status()["running"] == 0
    for connection in silent:
        connection.close()


def test_it_listens_on_this_machine_only(served: tuple[Managed, int]) -> None:
    managed, port = served
    assert managed.manager is not None
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{managed.manager.pid}/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]
    assert stat.S_IMODE(managed.folder.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(managed.folder.token.stat().st_mode) == 0o600


def test_a_port_that_is_taken(managed: Managed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sage", "jobmanager", "start", "--port", str(port)]
        done = subprocess.run(
            command, env=os.environ | {"SAGE_DATA_DIR": str(managed.where / "data")}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr[:5]) == (3, "E248 ")


@pytest.mark.root
def test_another_user_is_refused(served: tuple[Managed, int], tmp_path: Path) -> None:
    """Even where the folder were open: the system says who is at the other end."""
    managed = served[0]
    opened = [managed.folder.path, *managed.folder.path.parents][:-1]
    modes = [(path, stat.S_IMODE(path.stat().st_mode)) for path in opened]
    for path, _ in modes:
        path.chmod(0o755)
    managed.folder.socket.chmod(0o666)
    try:
        answer = _asked_as_nobody(managed.folder.socket)
    finally:
        for path, mode in modes:
            path.chmod(mode)
        managed.folder.socket.chmod(0o600)
    assert b" 403 " in answer
    assert b"E146 this is another user's job manager" in answer


def _asked_as_nobody(path: Path) -> bytes:
    """A child asks, since a process cannot become itself again."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n")
                os.write(writer, connection.recv(65536) + connection.recv(65536))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as said:
        answer = said.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_may_use(tmp_path: Path, mode: int) -> None:
    folder = StateFolder(tmp_path)
    folder.make()
    folder.path.chmod(mode)
    with pytest.raises(StorageError, match=r"E610 .* others may use it .*Try: chmod 700"):
        Client(folder).list()


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"E140 no job manager runs at .*Try: sage jobmanager start"):
        Client(StateFolder(tmp_path)).list()


def test_a_log_is_followed_as_it_grows(managed: Managed, wait_until: Wait) -> None:
    managed.start()
    source = QUICK + "print('ü' * 3, flush=True)\nuntil('one')\nprint('second', flush=True)\nuntil('two')\n"
    job = managed.submit(source)
    seen = ""
    for piece in managed.client.log(job, follow=True):
        seen += piece
        if "üüü" in seen:
            (managed.where / "one").touch()
        if "second" in seen:
            (managed.where / "two").touch()
    assert "\ufffd" not in seen
    assert managed.client.show(job)["state"] == "SUCCEEDED"
    assert seen == managed.log(job)
