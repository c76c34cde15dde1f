"""Misbehaviour on command: ``KIND[=VALUE][@RATE][*COUNT]``.

=============  =======================================================================================================
``500``        any status from 400 to 599, in OpenAI's form
``429=VALUE``  with ``Retry-After: VALUE``; ``429=date:SECONDS`` as an HTTP date, ``429=nonsense`` as a word that is
               neither; without VALUE there is no such header. The same for every status
``silence``    takes the request and never answers
``half``       half of the answer, then its end: without finish reason and ``[DONE]``
``stall``      half of the answer, then nothing
``cut``        half of the answer, then the connection is reset
``reset``      the connection is reset before any answer
``drip=S``     the whole answer, one token every S seconds (default 0.5)
``garbage``    200 with bytes that are neither JSON nor UTF-8
=============  =======================================================================================================

``@RATE`` is the share of requests that it befalls (default all), ``*COUNT`` after how many it is over (default never).
With several, the first whose dice fall so acts. Chat, completions and embeddings are befallen, nothing else.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate

from sage.clock import SYSTEM_CLOCK, Clock
from sage.errors import PipelineError

KINDS = ("silence", "half", "stall", "cut", "reset", "drip", "garbage")
DRIP_S = 0.5
_FORM = re.compile(r"(?P<kind>[a-z0-9]+)(=(?P<value>[^@*]*))?(@(?P<rate>[0-9.]+))?(\*(?P<count>[0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of misbehaviour; `text` is how it was written."""

    text: str
    kind: str
    value: str = ""
    rate: float = 1.0
    count: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Raises `PipelineError` (E242)."""
        found = _FORM.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            fault = cls(
                text, found["kind"], found["value"] or "", float(found["rate"] or 1), float(found["count"] or math.inf)
            )
            if not fault._makes_sense():
                raise ValueError
        except ValueError:
            expected = f"KIND[=VALUE][@RATE][*COUNT], KIND being a status from 400 on or {', '.join(KINDS)}"
            raise PipelineError("E242", "there is no such fault", got=text, expected=expected) from None
        return fault

    @property
    def status(self) -> int | None:
        return int(self.kind) if self.kind.isdigit() else None

    def retry_after(self, clock: Clock = SYSTEM_CLOCK) -> str | None:
        """The value of the header, for a fault with a status."""
        if self.value.startswith("date:"):
            at = clock.wall() + float(self.value.removeprefix("date:"))
            return formatdate(at, usegmt=True)
        return self.value or None

    def _makes_sense(self) -> bool:
        if self.value.startswith("date:") or self.kind == "drip":
            seconds = float(self.value.removeprefix("date:") or DRIP_S)
            if not 0 <= seconds < 1e6:
                return False
        known = self.kind in KINDS or (self.kind.isdigit() and 400 <= int(self.kind) <= 599)
        return known and 0 <= self.rate <= 1 and self.value.isprintable() and self.value.isascii()


class Faults:
    """Which fault befalls the next request; the same sequence for the same seed."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self._faults = list(faults)
        self._left = [fault.count for fault in self._faults]
        self._random = random.Random(seed)

    def texts(self) -> list[str]:
        return [fault.text for fault in self._faults]

    def draw(self) -> Fault | None:
        for index, fault in enumerate(self._faults):
            if self._left[index] and self._random.random() < fault.rate:
                self._left[index] -= 1
                return fault
        return None
