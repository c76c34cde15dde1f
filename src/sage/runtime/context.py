"""What the parts of one run share."""

from __future__ import annotations

from dataclasses import dataclass

from sage.clock import Clock
from sage.runtime.control import Control
from sage.runtime.deadletters import LetterBox
from sage.runtime.durable import Durability
from sage.runtime.ledger import Ledger


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """Tasks and stages reach everything outside themselves through it. One per run; where a run has several hosts,
    each worker has its own ledger and letter box."""

    pipeline: str
    run_id: str
    control: Control
    ledger: Ledger
    dead_letters: LetterBox
    clock: Clock
    append: bool
    """Sinks add to what they wrote earlier (dead letters are being replayed)."""
    durability: Durability | None = None
    """The job directory, if the run has one."""
