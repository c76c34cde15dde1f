"""A full disk: a job with a directory says so, waits, and goes on when there is room."""

from pathlib import Path

import pytest
from harness import FULL
from private_mount import python_on_tmpfs

SCRIPT = """
import os, sys, time
from pathlib import Path
import sage
from sage.connectors import Items, JsonLines

elsewhere, full, size = Path({elsewhere!r}), {full!r}, {size}

async def pay(n):
    return {{"n": n, "text": "x" * 2000}}

job_dir = Path("job") if full == "journal" else elsewhere / "job"
out = Path("out.jsonl") if full == "output" else elsewhere / "out.jsonl"
pipeline = sage.Pipeline("full")
pipeline.read(Items(range(600))).map(pay, durable=True, name="pay", concurrency=8).write(JsonLines(out), name="out")
ballast = open("ballast", "wb")
ballast.write(b"x" * size)
ballast.flush()
job = sage.start(pipeline, sage.RunOptions(job_dir=job_dir))
until = time.monotonic() + 60
while (why := job.snapshot().stalled) is None and time.monotonic() < until:
    time.sleep(0.001)
print(why)
if {stop}:
    job.stop()
    result = job.wait(60)
    print(result.status, result.error.code if result.error else None, result.goes_on)
    os.unlink("ballast"); ballast.close()
    result = sage.run(pipeline, job_dir=job_dir)
else:
    os.unlink("ballast"); ballast.close()
    result = job.wait(60)
print(result.status, sorted(out.read_text().splitlines()) == sorted(set(out.read_text().splitlines())),
      len(out.read_text().splitlines()))
"""


BOTH = [("journal", False), ("journal", True), ("output", False), ("output", True)]


@pytest.mark.root
@pytest.mark.parametrize(("full", "stop"), BOTH if FULL else [("journal", False), ("output", True)])
def test_a_job_waits_for_room(tmp_path: Path, full: str, stop: bool) -> None:
    (tmp_path / "small").mkdir()
    code = "E601" if full == "journal" else "E552"
    script = SCRIPT.format(elsewhere=str(tmp_path), full=full, size=20_500_000, stop=stop)
    why, *others = python_on_tmpfs(script, tmp_path / "small", options="size=20m").splitlines()
    assert f"{code} no space left" in why
    if stop:
        assert others.pop(0) == f"FAILED {code} True"
    assert others == ["SUCCEEDED True 600"]
