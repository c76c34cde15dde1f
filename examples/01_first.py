"""The shortest pipeline: numbers in, the squares of the odd ones out, as JSON lines.

python examples/01_first.py
sage run examples/01_first.py       the same with progress and figures
"""

from pathlib import Path

import sage
from sage.connectors import Items, JsonLines

OUTPUT = Path("demo-output/squares.jsonl")


def is_odd(n: int) -> bool:
    return n % 2 == 1


def square(n: int) -> dict[str, int]:
    return {"n": n, "square": n * n}


pipeline = sage.Pipeline("squares")
pipeline.read(Items(range(1, 11))).filter(is_odd).map(square).write(JsonLines(OUTPUT))

if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    result = sage.run(pipeline)
    print(result.account)
    print(OUTPUT.read_text(), end="")
