"""Calls to something slow and unreliable: many in flight, tried again, timed out, and buried if they fail for good.

The service is simulated. Of 200 orders every tenth fails once and succeeds at the second attempt, order 13 has a
price that is no number, and order 42 is never answered. 198 are written and 2 become dead letters.

    python examples/03_async_calls.py
    sage run examples/03_async_calls.py
    sage dead-letters list demo-output/prices.dead.jsonl
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import sage
from sage.connectors import Items, JsonLines

OUTPUT = Path("demo-output/prices.jsonl")
DEAD_LETTERS = Path("demo-output/prices.dead.jsonl")
ORDERS = [{"order": n, "price": "unknown" if n == 13 else str(n)} for n in range(200)]


class Price(sage.Operator):
    """Asks the service. What cannot be pickled (here: nothing yet) is made in `open`, once per instance."""

    def open(self, context: sage.OperatorContext) -> None:
        self.asked: set[int] = set()

    async def __call__(self, order: dict[str, Any]) -> dict[str, Any]:
        number = order["order"]
        await asyncio.sleep(3600 if number == 42 else 0.05)
        if number % 10 == 0 and number not in self.asked:
            self.asked.add(number)
            raise ConnectionError("the service hung up")
        return {**order, "price": float(order["price"])}


pipeline = sage.Pipeline("prices")
(
    pipeline.read(Items(ORDERS, name="orders"))
    .map(Price(), concurrency=64, retries=2, timeout_s=0.5)
    .write(JsonLines(OUTPUT))
)

if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    result = sage.run(pipeline, dead_letters=DEAD_LETTERS, max_dead_letters=10)
    print(f"{result.status} in {result.elapsed_s:.1f} s: {result.account}")
    for line in DEAD_LETTERS.read_text().splitlines():
        letter = json.loads(line)
        print(f"{letter['rid']} failed at {letter['step']} after {letter['attempts']} attempts: {letter['reason']}")
