"""Standard input and output, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from private_mount import SOURCE

from patience import DEADLINE_S
from sage.connectors import Stdin
from sage.errors import SourceError

READ = """
import sys
from sage.connectors import Stdin, Stdout
from sage.errors import SageError
from sage.flow.sink import SinkContext
try:
    source = Stdin(text="text" in sys.argv)
    source.check()
    reader = source.open(*source.partitions())
    writer = Stdout(text="text" in sys.argv).open(SinkContext("test", "write"))
    rejected = 0
    while (chunk := reader.read(100)) is not None:
        for fault in chunk.faults:
            print(fault.error, file=sys.stderr)
        rejected += len(writer.write(chunk.records, list(map(str, chunk.positions))))
    writer.commit()
except SageError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(script: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={"PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_json_lines_through_a_process() -> None:
    with start(READ) as process:
        out, err = process.communicate(b'{"a": "\xc3\xa4"}\n\nbroken\n[1]', timeout=DEADLINE_S)
    assert out.decode() == '{"a":"ä"}\n[1]\n'
    assert err.decode().startswith("E401 not valid JSON at stdin:3: got broken")
    assert process.returncode == 0


def test_text_through_a_process() -> None:
    with start(READ, "text") as process:
        out, _ = process.communicate(b"one\r\n\ntwo", timeout=DEADLINE_S)
    assert out == b"one\n\ntwo\n"


def test_a_line_is_passed_on_while_the_input_is_still_open() -> None:
    with start(READ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(3):
            process.stdin.write(b"%d\n" % n)
            process.stdin.flush()
            assert process.stdout.readline() == b"%d\n" % n


def test_an_output_that_nobody_reads() -> None:
    with start(READ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b'"line"\n')
        process.stdin.close()
        assert process.stderr.readline().startswith(b"E557 nobody reads the output any more at standard output")
    assert process.returncode != 0


def test_standard_streams_that_are_closed() -> None:
    with start("import sys; sys.stdin = None\n" + READ) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert err.startswith(b"E301 there is no standard input")
    assert process.returncode == 4


def test_standard_input_is_read_once() -> None:
    assert not Stdin().replayable
    with pytest.raises(SourceError, match="E302 standard input cannot be read again"):
        Stdin().open("stdin", 1)
