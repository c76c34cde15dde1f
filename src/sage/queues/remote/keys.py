"""The one secret of a server and its clients, and the key pairs that both derive from it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from sage.errors import QueueError

KEY_BYTES = 32
_KEY = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")


def new_key() -> str:
    """A new secret, as hexadecimal digits."""
    return os.urandom(KEY_BYTES).hex()


def check_key(key: Any) -> None:
    """Raise E502 unless `key` may be a secret. The error does not tell it."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        size = f"{len(key)} characters" if isinstance(key, str) else type(key).__name__
        raise QueueError(
            "E502",
            "the key of the queue is not possible",
            got=size,
            expected=f"{2 * KEY_BYTES} digits 0-9 a-f",
            try_="sage.queues.new_key()",
        )


def derived(key: str, label: str) -> bytes:
    """32 bytes for one purpose, from which neither `key` nor those of another purpose can be told."""
    return hashlib.blake2b(bytes.fromhex(key), digest_size=32, person=label.encode()).digest()
