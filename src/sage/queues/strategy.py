"""Which kind of queue joins two places."""

from __future__ import annotations

import logging
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

from sage.errors import QueueError
from sage.queues.descriptor import Place, QueueDescriptor, kinds

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """A descriptor, and why it is of this kind."""

    descriptor: QueueDescriptor
    reason: str


class QueueCreationStrategy(Protocol):
    """Chooses the kind of each queue. Replace it by anything with this method."""

    def choose(self, producer: Place, consumer: Place, **values: Any) -> Choice:
        """A descriptor with `values` for its fields: queue_id, maxsize, and what single kinds need (port, key).

        Raises `QueueError` E508 where nothing joins the two.
        """


class CheapestKind:
    """The cheapest registered kind that reaches from the one place to the other. Every choice is logged."""

    def choose(self, producer: Place, consumer: Place, **values: Any) -> Choice:
        refused: list[str] = []
        for kind in kinds():
            refusal = kind.refusal(producer, consumer) or _lacks(kind, values)
            if refusal is None:
                reason = f"{kind.kind}" + "".join(f"; not {why}" for why in refused)
                known = {entry.name for entry in fields(kind)}
                choice = Choice(kind(**{name: value for name, value in values.items() if name in known}), reason)
                _log.info("queue %s: %s", choice.descriptor.queue_id, reason)
                return choice
            refused.append(f"{kind.kind}: {refusal}")
        raise QueueError(
            "E508", "no kind of queue joins these places", got=(producer, consumer), expected="; ".join(refused)
        )


def _lacks(kind: type[QueueDescriptor], values: dict[str, Any]) -> str | None:
    """What a descriptor of this kind cannot be made without, and is not given."""
    lacking = [
        entry.name
        for entry in fields(kind)
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in values
    ]
    return f"it needs {' and '.join(lacking)}" if lacking else None
