"""Job directories whose bytes were changed: refused with a reason, or right; never wrong without a word."""

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from harness import FULL, History, Workload

from sage.errors import SageError
from sage.runtime.durability.audit import bill, verify
from sage.runtime.durability.rows import Rows

CODE = re.compile(r"(REFUSED|FAILED) (E\d{3}) ")
EXPECTED = {"E603", "E604", "E605", "E558", "E611"}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was killed in its middle."""
    folder = tmp_path_factory.mktemp("half")
    workload = Workload(folder, records=120, call_s=0.01, concurrency=4)
    workload.prepare()
    assert not History(workload).run(kill_at_bill=90), "it should not have come to its end"
    return folder


def damage(folder: Path, chance: random.Random) -> str:
    """Change something in one file of the job; what."""
    files = [folder / "job" / name for name in ("journal.db", "journal.db-wal")] + list(folder.glob(".*.sage-part"))
    file = chance.choice([one for one in files if one.exists() and one.stat().st_size])
    data = bytearray(file.read_bytes())
    how = chance.choice(["flip", "flip", "flip", "cut", "swap", "zero", "remove", "empty"])
    at = chance.randrange(len(data))
    if how == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "swap":
        other = chance.randrange(len(data))
        size = min(64, len(data) - max(at, other))
        data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
    elif how == "zero":
        start = at // 4096 * 4096
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    elif how == "empty":
        data.clear()
    if how == "remove":
        file.unlink()
    else:
        file.write_bytes(data)
    return f"{how} at {at} of {file.name}"


@pytest.mark.timeout(3600 if FULL else 240)
@pytest.mark.parametrize("seed", range(2000 if FULL else 20))
def test_a_damaged_job_is_refused_or_right(tmp_path: Path, half: Path, seed: int) -> None:
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    told = damage(tmp_path, random.Random(seed))
    history = History(Workload(tmp_path, records=120, call_s=0.0, concurrency=16))
    history.run()
    refused = CODE.match(history.ended[-1])
    if refused is None:
        found = [one for one in history.violations() if not one.startswith("BILL")]  # what was damaged is paid again
        assert found == [], told
    else:
        assert refused[2] in EXPECTED, (told, history.ended)


def test_whoever_looks_at_a_damaged_journal_is_told_where(tmp_path: Path, half: Path) -> None:
    shutil.copytree(half / "job", tmp_path / "job")
    Rows(tmp_path / "job" / "journal.db").close()  # folds the log into the file
    file = tmp_path / "job" / "journal.db"
    data = file.read_bytes()
    at = data.index(b'"answer"')
    file.write_bytes(data[:at] + b'"Answer"' + data[at + 8 :])
    for look in (verify, bill):
        with pytest.raises(SageError, match=r"E604 a journal is damaged at .*row \d+ \(result\)"):
            look(tmp_path / "job")


@pytest.mark.parametrize("name", ["journal.db", "blobs"])
def test_a_directory_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    workload = Workload(tmp_path)
    workload.prepare()
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "letters.txt").write_text("mine")
    if name == "journal.db":
        (tmp_path / "job" / name).write_bytes(os.urandom(8192))
    history = History(workload)
    history.run()
    assert re.match(r"REFUSED E6(04|11) ", history.ended[-1]), history.ended
    assert (tmp_path / "job" / "letters.txt").read_text() == "mine"
