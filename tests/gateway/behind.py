"""A gateway in front of simulated endpoints, and plain HTTP to it."""

import hashlib
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from patience import DEADLINE_S
from sage.gateway import EndpointConfig, Gateway, GatewayConfig, KeyConfig, Ledger, Used

MODEL = "tiny-model"


@contextmanager
def gateway_for(*urls: str, models: tuple[str, ...] = (), **config: Any) -> Iterator[Gateway]:
    endpoints = tuple(EndpointConfig(url, models) for url in urls)
    with Gateway(GatewayConfig(endpoint=endpoints, port=0, **config), Path("usage.sqlite")) as gateway:
        yield gateway


class Said:
    """An answer, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error

    @property
    def events(self) -> list[Any]:
        """The documents of a stream, without the last, which is [DONE] or an error."""
        return [json.loads(line[5:]) for line in self.body.splitlines() if line.startswith(b"data: {")]


def ask(gateway: Gateway, path: str, body: object = None, method: str | None = None, **headers: str) -> Said:
    """One request; `body` is JSON or bytes. Underscores in names of headers become dashes."""
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=DEADLINE_S)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, raw, sent)
        return Said(connection.getresponse())
    finally:
        connection.close()


def chat(text: str = "Hello", **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 5, **options}


def keyed(name: str, **entry: Any) -> tuple[str, KeyConfig]:
    """A key's header and its entry."""
    key = f"key-of-{name}"
    return f"Bearer {key}", KeyConfig(name, hashlib.sha256(key.encode()).hexdigest(), **entry)


CHAT = "/v1/chat/completions"


def used(gateway: Gateway, *by: str) -> list[Used]:
    ledger = Ledger(gateway.usage_file)
    try:
        return ledger.totals(by)
    finally:
        ledger.close()
