"""Fields by which some servers let a request say where it is sent next, and with which headers. They are dropped, at
whatever depth they stand: where a request goes is a matter of the gateway's configuration alone."""

from __future__ import annotations

import re
from typing import Any

import msgspec

DROPPED = frozenset({"api_base", "base_url", "user_config", "extra_headers", "proxies"})
SCHEMAS = frozenset({"parameters", "schema", "guided_json"})
"""Below these, names are those of the user's own data."""
_SUSPECT = re.compile(rb'"(?:%s)"' % "|".join(sorted(DROPPED)).encode() + rb"|\\u00[567]")
"""One of the names, or letters that are written by their number: what has neither needs not be read."""


def without_destinations(body: bytes) -> bytes:
    """`body` without them; the very same bytes if there are none. It is known to be JSON and not too deep."""
    if _SUSPECT.search(body) is None:
        return body
    document = msgspec.json.decode(body)
    return msgspec.json.encode(document) if _drop(document) else body


def _drop(value: Any) -> int:
    """How many there were."""
    if isinstance(value, list):
        return sum(_drop(item) for item in value)
    if not isinstance(value, dict):
        return 0
    found = value.keys() & DROPPED
    for name in found:
        del value[name]
    return len(found) + sum(_drop(inner) for name, inner in value.items() if name not in SCHEMAS)
