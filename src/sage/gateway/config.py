"""What a gateway is started with: a TOML file, read and checked as a whole.

::

    host = "127.0.0.1"           # another address needs keys
    port = 8900
    max_wait_s = 60              # a request that would wait longer is turned away at once
    timeout_s = 600              # for a whole answer
    longest_answer_tokens = 4096 # of a request that does not say it, where a budget has to hold
    usage_file = "usage.sqlite"  # relative to this file
    drain_s = 1                  # at its end, for requests in flight; then they are broken off
    cache_bytes = 0              # for answers to be given again to who asks for it; 0: none
    cache_ttl_s = 3600
    prefix_affinity = true       # long prompts that begin alike go to the same endpoint, where that costs nothing
    batch_bytes = 1_073_741_824  # for files of batches, in the folder `batches` beside the file of usage; 0: none

    [[endpoint]]
    url = "http://127.0.0.1:8001"
    models = ["Qwen/Qwen2.5-3B-Instruct"]  # without it the endpoint is asked when the gateway starts
    key_file = "upstream.key"

    keys_folder = "keys"         # further keys: files that come and go, each a [[key]] as JSON, named by its sha256

    [[key]]
    name = "alice"               # `sage gateway --new-key alice` writes this table
    sha256 = "..."
    tenant = "search"            # keys of one tenant share its turn; without it each key is a tenant
    scopes = ["infer"]           # and "admin", for /metrics
    weight = 2
    priority = 1                 # the higher one goes first
    max_requests = 256           # at once
    requests_per_minute = 600
    tokens_per_minute = 100_000
    budget_tokens = 5_000_000    # what a request may use is reserved, and what it did not use is given back
    budget_per = "month"         # hour, day or month of UTC, or "ever"
    models = ["Qwen/Qwen2.5-3B-Instruct"]  # without it all

    [[tenant]]
    name = "search"              # and the same limits for all its keys together
    budget_tokens = 20_000_000
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sage.errors import PipelineError
from sage.llm.address import is_loopback
from sage.settings import Secret, check_secret, check_url

MAX_FILE_BYTES = 1 << 20
MAX_KEY_BYTES = 4096
PORT = 8900

Scope = Literal["infer", "admin"]
Period = Literal["hour", "day", "month", "ever"]
Positive = Annotated[int, Meta(ge=1, le=1 << 53)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class EndpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One endpoint. Without `models` it is asked for them when the gateway starts."""

    url: str
    models: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    key_file: str | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What somebody may use; None is no limit."""

    max_requests: Positive = 1024
    """At once."""
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    budget_tokens: Positive | None = None
    budget_per: Period = "month"
    models: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Without any: all."""


class TenantConfig(Limits, frozen=True):
    """The limits of all keys of one tenant together."""

    name: Name


class KeyConfig(Limits, frozen=True):
    """One key, of which only the SHA-256 is known."""

    name: Name
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    tenant: Name | None = None
    scopes: tuple[Scope, ...] = ("infer",)
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    priority: Annotated[int, Meta(ge=-8, le=8)] = 0


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything; see the module."""

    endpoint: tuple[EndpointConfig, ...] = ()
    key: tuple[KeyConfig, ...] = ()
    tenant: tuple[TenantConfig, ...] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = PORT
    max_wait_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    longest_answer_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096
    usage_file: str | None = None
    drain_s: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    cache_bytes: Annotated[int, Meta(ge=0)] = 0
    cache_ttl_s: Annotated[float, Meta(gt=0)] = 3600.0
    prefix_affinity: bool = True
    batch_bytes: Annotated[int, Meta(ge=0)] = 1 << 30
    keys_folder: str | None = None
    """Where further keys are looked up. Their rates and budgets are not kept."""

    @property
    def has_keys(self) -> bool:
        """Nobody is served without one."""
        return bool(self.key) or self.keys_folder is not None

    def check(self, at: str) -> None:
        """Raises `PipelineError`: E242, E247 (an address beyond this machine, and no key)."""
        if not self.endpoint:
            raise PipelineError("E242", "a gateway needs an endpoint", at=at, try_="--endpoint URL, or [[endpoint]]")
        for endpoint in self.endpoint:
            check_url(endpoint.url, f"{at} endpoint.url")
        for what, values in (
            ("endpoint.url", [endpoint.url for endpoint in self.endpoint]),
            ("key.name", [key.name for key in self.key]),
            ("key.sha256", [key.sha256 for key in self.key]),
            ("tenant.name", [tenant.name for tenant in self.tenant]),
        ):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise PipelineError("E242", f"{what} stands there twice", at=at, got=twice, expected="each once")
        tenants = {key.tenant for key in self.key}
        if strange := next((tenant.name for tenant in self.tenant if tenant.name not in tenants), None):
            raise PipelineError("E242", "no key has this tenant", at=f"{at} tenant.name", got=strange)
        if not self.has_keys and not is_loopback(self.host):
            raise PipelineError(
                "E247", "a server on this address needs a key", at=self.host, try_="127.0.0.1, or --new-key NAME"
            )


def new_key(name: str) -> tuple[str, KeyConfig]:
    """A new random key, and its entry in the configuration."""
    key = f"sage-{secrets.token_urlsafe(32)}"
    entry = KeyConfig(name, hashlib.sha256(key.encode()).hexdigest())
    try:
        return key, msgspec.convert(msgspec.to_builtins(entry), KeyConfig)
    except msgspec.ValidationError as error:
        raise PipelineError("E242", "a key cannot have this name", got=name, expected=str(error)) from error


def load_config(path: Path) -> GatewayConfig:
    """Read and check it; paths in it become relative to its folder. Raises `PipelineError` (E241 to E243, E247)."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise PipelineError("E243", "the file is too large", at=str(path), expected="at most 1 MB")
        config = msgspec.toml.decode(raw.decode("utf-8-sig"), type=GatewayConfig)
    except OSError as error:
        raise PipelineError("E243", "the file cannot be read", at=str(path), got=error.strerror) from error
    except msgspec.ValidationError as error:
        place = _place(path, raw.decode("utf-8-sig"), str(error))
        raise PipelineError("E241", "a setting is wrong", at=place, got=str(error)) from error
    except (ValueError, RecursionError) as error:  # what is not UTF-8 too
        raise PipelineError("E243", "the file is not valid TOML", at=str(path), got=str(error)) from error
    endpoints = tuple(
        msgspec.structs.replace(endpoint, key_file=str(path.parent / endpoint.key_file))
        if endpoint.key_file
        else endpoint
        for endpoint in config.endpoint
    )
    usage_file = None if config.usage_file is None else str(path.parent / config.usage_file)
    keys_folder = None if config.keys_folder is None else str(path.parent / config.keys_folder)
    return msgspec.structs.replace(config, endpoint=endpoints, usage_file=usage_file, keys_folder=keys_folder)


def _place(path: Path, text: str, said: str) -> str:
    """``file:line`` of the setting that msgspec has `said` something about; the file alone if no line is its own."""
    where = re.search(r"`\$\.?(?:(\w+)\[(\d+)\])?\.?(\w*)", said)
    table, index, key = (where[1], int(where[2] or 0), where[3]) if where else (None, 0, "")
    unknown = re.search("unknown field `([^`]+)`", said)
    key = str(unknown[1] if unknown else key)
    inside, seen = table is None, -1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([\w-]+)", line)
        if header:
            seen += header[1] == table
            inside = (header[1] == table and seen == index) or header[1] == key
        if inside and re.match(rf"""\s*[\["']*{re.escape(key)}\b""", line):
            return f"{path}:{number}"
    return str(path)


def upstream_key(endpoint: EndpointConfig) -> Secret | None:
    """The key to be sent to `endpoint`. Raises `PipelineError` E244."""
    if endpoint.key_file is None:
        return None
    try:
        with Path(endpoint.key_file).open("rb") as file:
            raw = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise PipelineError("E244", "the key file cannot be read", at=endpoint.key_file, got=error.strerror) from error
    if len(raw) > MAX_KEY_BYTES:
        raise PipelineError("E244", "the key file is too large for a key", at=endpoint.key_file)
    return check_secret(raw.decode("ascii", "replace"), endpoint.key_file)
