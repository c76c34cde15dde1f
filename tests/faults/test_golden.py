"""Job directories of earlier formats, kept in `golden/` for ever: each is read, and its job goes on.

A new format, or a new kind of row, gets a directory of its own: python tests/faults/test_golden.py FOLDER makes it.
"""

from __future__ import annotations

import json
import operator
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import sage
from patience import DEADLINE_S
from sage.cli.main import main
from sage.connectors import Items, JsonLines
from sage.errors import SageError
from sage.runtime.durability.audit import bill, damaged_rows, verify
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.rows import Rows

GOLDEN = Path(__file__).parent / "golden"
JOB = Path("job")
SIZES = [*range(100, 120), 70_000, *range(120, 139)]
"""Of the results; one is too large for a row."""


class Cut(BaseException):
    """Ends the run in the middle, as nothing that is caught would."""


def pipeline(cut_at: int | None = None) -> sage.Pipeline:
    """The operator of the durable step is not of Python: its fingerprint is the same in every release of it."""

    def check(text: str) -> str:
        if len(text) == cut_at:
            raise Cut
        return text

    made = sage.Pipeline("golden")
    texts = made.read(Items(SIZES)).map(partial(operator.mul, "x"), name="pay", durable=True, concurrency=2)
    sizes = texts.map(check, name="check").map(len, name="size")
    sizes.write(JsonLines("out.jsonl"), name="out")
    sizes.key_by(lambda n: n % 3, name="by").aggregate(int, operator.add, name="sums").collect("totals")
    sizes.collect("all")
    return made


def run(made: sage.Pipeline) -> sage.RunResult:
    return sage.start(made, sage.RunOptions(job_dir=JOB)).wait(DEADLINE_S)


def make() -> None:
    """A job that was cut off in its middle, in the current folder."""
    assert run(pipeline(cut_at=130)).status is sage.Status.FAILED
    rows = Rows(JOB / "journal.db")
    rows.apply([Change(RowKind.DEATHS, b"d" * 20, b"2\n" + json.dumps(["pay", "items/99"]).encode())])
    rows.close()


def kinds() -> set[str]:
    return set(verify(JOB).rows)


@pytest.mark.parametrize("name", sorted(one.name for one in GOLDEN.iterdir()))
def test_a_job_of_an_earlier_format_goes_on(tmp_path: Path, name: str) -> None:
    shutil.copytree(GOLDEN / name, tmp_path, dirs_exist_ok=True)
    found = verify(JOB)
    assert found.stage == "running"
    assert sum(found.finished.values()) < len(SIZES)
    result = run(pipeline())
    assert result.error is None
    right = sorted(SIZES)
    assert sorted(result.collected("all")) == right
    assert sorted(json.loads(line) for line in Path("out.jsonl").read_text().splitlines()) == right
    assert dict(result.collected("totals")) == {key: sum(n for n in right if n % 3 == key) for key in range(3)}
    (told,) = bill(JOB)
    assert told.paid == len(SIZES)
    assert told.reused > 0


def test_the_newest_of_them_has_all_that_is_written_today() -> None:
    make()
    today = kinds()
    shutil.rmtree(JOB)
    shutil.copytree(sorted(GOLDEN.iterdir())[-1] / "job", JOB)
    assert today <= kinds()


def damaged(kind: RowKind) -> int:
    """Change the last byte of a row of this kind; its number."""
    with closing(sqlite3.connect(JOB / "journal.db")) as journal, journal:
        (number, value) = journal.execute("SELECT id, value FROM rows WHERE kind = ?", (kind.value,)).fetchone()
        changed = value[:-1] + bytes([value[-1] ^ 1])
        journal.execute("UPDATE rows SET value = ? WHERE id = ?", (changed, number))
    assert [row.number for row in damaged_rows(JOB)] == [number]
    return int(number)


def told(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of ``sage job``, and what it says."""
    code = main(["job", *arguments])
    out, err = capfd.readouterr()
    return code, out + err


def test_a_damaged_result_is_dropped_and_paid_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(sorted(GOLDEN.iterdir())[-1], tmp_path, dirs_exist_ok=True)
    before = verify(JOB).rows["result"]
    number = damaged(RowKind.RESULT)
    code, text = told(capfd, "verify", "job")
    assert (code, f"row {number} (result)" in text) == (6, True), text
    with pytest.raises(SageError, match="E604"):
        run(pipeline())
    code, text = told(capfd, "repair", "job", "--drop-row", str(number))
    assert code == 0, text
    assert json.loads((JOB / f"dropped-{number}.json").read_text())["kind"] == "result"
    assert verify(JOB).rows["result"] == before - 1
    assert told(capfd, "repair", "job", "--drop-row", str(number))[1].startswith("E116")
    result = run(pipeline())
    assert result.error is None
    assert sorted(result.collected("all")) == sorted(SIZES)


def test_a_row_that_the_job_needs_is_not_dropped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(sorted(GOLDEN.iterdir())[-1], tmp_path, dirs_exist_ok=True)
    number = damaged(RowKind.POSITION)
    code, text = told(capfd, "repair", "job", "--drop-row", str(number))
    assert code == 2, text
    assert text.startswith("E116 this row cannot be dropped"), text
    assert damaged_rows(JOB)


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir()
    os.chdir(sys.argv[1])
    make()
