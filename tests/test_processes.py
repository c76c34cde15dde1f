"""What a process says before others count on it."""

import os
from collections.abc import Iterator

import pytest

from patience import DEADLINE_S
from sage.processes import announced, announcement_in

LOADER = b"ERROR: ld.so: object 'libx.so' from LD_PRELOAD cannot be preloaded: ignored."
OBJECT = b'{"port": 1, "name": "{"}'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_line_of_json_is_found_among_others(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    said = LOADER + b"\n{no JSON\n" + OBJECT + b"\nlater"
    whole = said.index(OBJECT) + len(OBJECT)
    assert all(announcement_in(said[:cut])[0] is None for cut in range(whole))
    os.write(writes, said)
    found, rest = announced(reads, DEADLINE_S)
    assert found == {"port": 1, "name": "{"}
    assert rest.splitlines() == [LOADER.decode(), "{no JSON", "later"]


def test_an_end_without_it_and_silence(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    os.write(writes, b"no\xff")
    with pytest.raises(TimeoutError, match=r"^no\ufffd$"):
        announced(reads, 0.0)
    with open("/dev/null", "rb") as closed:
        assert announced(closed.fileno(), DEADLINE_S) == (None, "")
