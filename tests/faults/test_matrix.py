"""The matrix names tests that there are, and the documentation says of each row what the matrix does."""

import re
from pathlib import Path

import pytest
from matrix import ROWS, TESTS

DOCUMENT = TESTS.parent / "docs" / "durability.md"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_the_tests_of_a_row_are_there(row: object) -> None:
    for test in row.tests:  # type: ignore[attr-defined]
        file, _, name = test.split()[0].partition("::")
        text = Path(TESTS / file).read_text()
        assert not name or f"def {name}(" in text, test


def test_the_documentation_has_every_row() -> None:
    told = {}
    for line in DOCUMENT.read_text().splitlines():
        found = re.fullmatch(r"\| (\d+) \| ([^|]+) \| ([^|]+) \| [^|]+ \|", line)
        if found:
            told[int(found[1])] = (found[2], set(re.findall(r"`([\w/]+\.py)`", found[3])))
    assert told == {row.number: (row.fault, {test.partition("::")[0] for test in row.tests}) for row in ROWS}
