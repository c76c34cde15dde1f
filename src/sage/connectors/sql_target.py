"""Which rows of a database a sink writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Target(NamedTuple):
    """A table, as `SQL` describes it."""

    name: str
    key: str | None
    replace: Sequence[str]
    columns: Sequence[str] | None
