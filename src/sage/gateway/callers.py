"""Who is calling: a key and what it opens."""

from __future__ import annotations

import hashlib
import hmac
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.errors import PipelineError
from sage.gateway.config import GatewayConfig, KeyConfig, Scope, TenantConfig
from sage.private import check_private


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a key; `name` is the key's."""

    name: str
    tenant: str
    """Whose turn it takes, and whose answers it may be given again; empty without keys."""
    scopes: tuple[Scope, ...]
    weight: float
    priority: int
    models: frozenset[str] | None
    """That it may use; None: all."""
    budgeted: bool

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


NOBODY = Caller("", "", ("infer", "admin"), 1.0, 0, None, False)
"""Everybody who calls a gateway without keys."""


class Callers:
    """Who a key belongs to. Raises `PipelineError` E242 where others could give themselves one."""

    def __init__(self, config: GatewayConfig) -> None:
        tenants = {tenant.name: tenant for tenant in config.tenant}
        self._folder = None if config.keys_folder is None else Path(config.keys_folder)
        self._keyed = config.has_keys
        if self._folder is not None and self._folder.exists():
            try:
                check_private(self._folder, stat.S_IWGRP | stat.S_IWOTH)
            except PermissionError as error:
                raise PipelineError(
                    "E242", "the folder of keys is not safe", at=str(self._folder), got=str(error)
                ) from error
        self._known = [(bytes.fromhex(key.sha256), _caller(key, tenants.get(key.tenant or ""))) for key in config.key]

    def __bool__(self) -> bool:
        return self._keyed

    def of(self, given: bytes) -> Caller | None:
        """None for a wrong key. Takes the same time for every `given` of one length that is in no file."""
        digest = hashlib.sha256(given).digest()
        matches = [caller for known, caller in self._known if hmac.compare_digest(known, digest)]
        return matches[0] if matches else self._in_folder(digest.hex())

    def named(self, name: str) -> Caller | None:
        """By the name of its key: for what goes on when nobody calls. None where the key is gone."""
        if not self._keyed:
            return NOBODY
        found = next((caller for _, caller in self._known if caller.name == name), None)
        if found is not None or self._folder is None:
            return found
        callers = (self._in_folder(path.name) for path in self._folder.glob("[0-9a-f]*"))
        return next((caller for caller in callers if caller is not None and caller.name == name), None)

    def _in_folder(self, sha256: str) -> Caller | None:
        """Looked up each time: a key whose file is gone opens nothing any more."""
        if self._folder is None:
            return None
        try:
            key = msgspec.json.decode((self._folder / sha256).read_bytes(), type=KeyConfig)
        except (OSError, ValueError):  # none, or not whole yet
            return None
        return _caller(key, None) if key.sha256 == sha256 else None


def _caller(key: KeyConfig, tenant: TenantConfig | None) -> Caller:
    lists = [frozenset(limits.models) for limits in (key, tenant) if limits is not None and limits.models]
    budgets = [limits.budget_tokens for limits in (key, tenant) if limits is not None]
    return Caller(
        key.name,
        key.tenant or key.name,
        key.scopes,
        key.weight,
        key.priority,
        frozenset.intersection(*lists) if lists else None,
        any(budgets),
    )
