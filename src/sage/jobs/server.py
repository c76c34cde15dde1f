"""The HTTP server of the manager: who may speak to it, and how much.

It listens on a socket file of the user's own (0600 in a folder 0700; the system says who is at the other end, and
another user is refused) and, if told to, on a port of 127.0.0.1, where every request needs the token. Built on the
standard library: a handful of requests a second do not justify a dependency. One request a connection, so nothing of
one can be taken for part of another.
"""

from __future__ import annotations

import hmac
import http.server
import json
import os
import socket
import socketserver
import threading
import traceback
from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from sage.errors import InternalError, PipelineError, SageError, StorageError
from sage.jobs.api import ROUTES, Api, error_as_json, status_of
from sage.jobs.folder import StateFolder
from sage.jobs.routes import JSON, Request, RequestError, decoded, route_of
from sage.processes import at_other_end

MAX_BODY_BYTES = 1 << 20
MOST_CONNECTIONS = 256
"""Each has a thread; those who follow a log keep theirs for up to 20 s."""
PATIENCE_S = 10.0
"""For each piece of a request to come, and for a piece of an answer to go."""


class Answering(http.server.BaseHTTPRequestHandler):
    """One connection: one request, one answer, in JSON unless its route says otherwise."""

    server: _Server
    timeout = PATIENCE_S
    protocol_version = "HTTP/1.1"
    server_version = "sage"
    sys_version = ""

    def _answer(self) -> None:
        try:
            self.server.let_in(self)
            status, answer, media = self._answered()
        except SageError as error:
            status, answer, media = status_of(error), error_as_json(error), JSON
        except OSError:
            raise  # the client went away, or let us wait
        except Exception as error:  # noqa: BLE001 -- the outermost edge: it becomes an answer, and a line in the log
            traceback.print_exc()
            defect = InternalError("E990", "internal error", got=error, try_="the log of the job manager")
            status, answer, media = 500, error_as_json(defect), JSON
        self._send(status, answer, media)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = do_HEAD = _answer

    def _answered(self) -> tuple[int, object, str]:
        path, _, query = self.requestline.split()[1].partition("?")  # `self.path` has slashes less
        route, job = route_of(ROUTES, self.command, path)
        given = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=8)) if len(query) < 1000 else {"": ""}
        for name in given:
            if name not in route.query:
                raise RequestError(
                    400, "there is no such parameter", at=path, expected=", ".join(route.query) or "none"
                )
        answer = route.handle(self.server.api, Request(job, given, decoded(self._body())))
        return route.status, answer, route.media

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) > 1:
            raise RequestError(411, "the length of the body is not clear", expected="one Content-Length")
        length = lengths[0] if lengths else "0"
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            raise RequestError(400, "the length of the body is not a number", at="Content-Length")
        if int(length) > MAX_BODY_BYTES:
            raise RequestError(413, "the body is too large", expected=f"at most {MAX_BODY_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RequestError(400, "the body is shorter than it was said to be")
        return body

    def _send(self, status: int, answer: object, media: str = JSON) -> None:
        body = (json.dumps(answer, allow_nan=False) if media == JSON else str(answer)).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", media), ("Content-Length", str(len(body))), ("Connection", "close"),
            ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself, in our form."""
        refused = RequestError(code, (message or HTTPStatus(code).phrase).lower(), at="the request")
        self.command = getattr(self, "command", None) or ""
        self._send(code, error_as_json(refused))

    def log_message(self, *args: object) -> None:
        """Requests are not logged: what they did is."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer, ABC):
    """Bounded: at `MOST_CONNECTIONS` it waits for one to end before it takes the next."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, api: Api, family: socket.AddressFamily, address: Any) -> None:
        self.api = api
        self.address_family = family
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._closing = False
        super().__init__(address, Answering)

    def serve(self) -> None:
        """Answer until `end`."""
        while not self._closing:
            self.handle_request()

    def end(self) -> None:
        """Have `serve` return; what is being answered may go on."""
        self._closing = True
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes who waits for connections

    @abstractmethod
    def let_in(self, request: Answering) -> None:
        """Raise `RequestError` if whoever asks may not."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client went away, or let us wait: its own affair."""


class _SocketServer(_Server):
    """On a socket file."""

    def __init__(self, api: Api, folder: StateFolder) -> None:
        self._folder = folder
        super().__init__(api, socket.AF_UNIX, "")

    def server_bind(self) -> None:
        self._folder.socket.unlink(missing_ok=True)  # of a manager that was killed: the lock says that none is there
        directory = os.open(self._folder.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.socket.bind(f"/proc/self/fd/{directory}/{self._folder.socket.name}")  # of any length, this way
        finally:
            os.close(directory)
        self._folder.socket.chmod(0o600)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = self.socket.accept()
        return connection, ("", 0)

    def let_in(self, request: Answering) -> None:
        _, user = at_other_end(request.connection)
        if user not in (os.geteuid(), 0):
            raise RequestError(403, "this is another user's job manager")

    def server_close(self) -> None:
        super().server_close()
        self._folder.socket.unlink(missing_ok=True)


class _PortServer(_Server):
    """On a port of this machine, for those who know the token."""

    def __init__(self, api: Api, port: int, token: str) -> None:
        self._token = token.encode()
        super().__init__(api, socket.AF_INET, ("127.0.0.1", port))
        names = ("127.0.0.1", "localhost")
        self._hosts = {f"{name}:{self.server_address[1]}" for name in names}

    def let_in(self, request: Answering) -> None:
        hosts = request.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:  # a page of elsewhere whose name points here
            raise RequestError(403, "this is not the name of this server", at="Host")
        origin = request.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            raise RequestError(403, "a page of elsewhere may not ask", at="Origin")
        given = request.headers.get_all("Authorization", [])
        kind, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        if kind != "Bearer" or not token or not hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            raise RequestError(401, "the token is missing or wrong", at="Authorization", expected="Bearer TOKEN")


class Servers:
    """Where the manager answers. Open when made; `close` ends it."""

    def __init__(self, api: Api, folder: StateFolder, port: int | None, token: str) -> None:
        """Raises `PipelineError` E248 if the port is taken, `StorageError` E610 if the socket cannot be made."""
        try:
            self._servers: list[_Server] = [_SocketServer(api, folder)]
        except OSError as error:
            what = "the folder of the job manager cannot be used"
            raise StorageError("E610", what, at=str(folder.socket), got=error.strerror) from error
        self.port: int | None = None
        if port is not None:
            try:
                self._servers.append(_PortServer(api, port, token))
            except (OSError, OverflowError) as error:
                self._servers[0].server_close()
                at = f"127.0.0.1:{port}"
                raise PipelineError(
                    "E248", "cannot listen here", at=at, got=str(error), try_="another --port"
                ) from error
            self.port = self._servers[1].server_address[1]
        self._threads = [
            threading.Thread(target=server.serve, name="sage-jobs-server", daemon=True) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take no more requests; those under way may end by themselves."""
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.end()
            thread.join()
            server.server_close()
