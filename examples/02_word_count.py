"""The ten most frequent words of a text: flat_map, key_by and count.

A reduction ends when its input ends: `count` then emits one (key, number) for each key.

    python examples/02_word_count.py [FILE]
    sage run examples/02_word_count.py -- [FILE]
"""

import re
import sys
from pathlib import Path

import sage
from sage.connectors import Text

LICENCE = Path(__file__).resolve().parent.parent / "data" / "python_faq" / "LICENSE.txt"
FILE = sys.argv[1] if len(sys.argv) > 1 else LICENCE


def words(line: str) -> list[str]:
    return re.findall(r"[a-z]+", line.lower())


pipeline = sage.Pipeline("words")
pipeline.read(Text(FILE)).flat_map(words).key_by().count().collect("counts")

if __name__ == "__main__":
    result = sage.run(pipeline)
    counts: list[tuple[str, int]] = result.collected("counts")
    for word, number in sorted(counts, key=lambda pair: (-pair[1], pair[0]))[:10]:
        print(f"{number:6,}  {word}")
    print(result.account)
