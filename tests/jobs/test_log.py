"""What is read of a log that is being written."""

import os
from pathlib import Path

from patience import DEADLINE_S
from sage.jobs.log import Piece, read_piece


def test_half_a_character_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes("ä".encode()[:1])
    looks = []

    def ended() -> bool:
        looks.append(log.stat().st_size)
        if len(looks) == 1:
            os.utime(tmp_path)  # what wakes those who wait, without a word in the log
        elif len(looks) == 2:
            log.write_bytes("ä".encode())
        return False

    assert read_piece(log, 0, ended, DEADLINE_S) == Piece("ä", 2, False)
    log.write_bytes("ä".encode()[:1])
    assert read_piece(log, 0, lambda: True, DEADLINE_S) == Piece("\N{REPLACEMENT CHARACTER}", 1, True)
