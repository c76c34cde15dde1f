"""What the gateway keeps is its user's alone, and what is not is not used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from behind import CHAT, MODEL, ask, chat, gateway_for

from sage.errors import SageError
from sage.gateway import Ledger
from sage.llm.simulated import SimulatedEndpoint

NOWHERE = "http://127.0.0.1:9"
SOMEBODY = 65_534


def start(**config: object) -> None:
    with gateway_for(NOWHERE, models=(MODEL,), **config):
        pass


def to_somebody(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, SOMEBODY, SOMEBODY)


SPOILT: list[Callable[[Path], None]] = [to_somebody, lambda path: path.chmod(path.stat().st_mode | 0o022)]


def test_whatever_the_umask_says_others_get_nothing() -> None:
    before = os.umask(0)
    try:
        with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url) as gateway:
            assert ask(gateway, CHAT, chat()).status == 200
            boundary = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
            form = (
                boundary % (b"purpose", b"", b"batch") + boundary % (b"file", b'; filename="a"', b"{}") + b"--x--\r\n"
            )
            kept = ask(gateway, "/v1/files", form, Content_Type="multipart/form-data; boundary=x")
            assert kept.status == 200
            made = [*Path().glob("usage.sqlite*"), Path("batches"), *Path("batches").iterdir()]
    finally:
        os.umask(before)
    assert {path.name.partition("-")[0].partition(".")[0] for path in made} == {"usage", "batches", "lock", "file"}
    assert [path.name for path in made if path.exists() and path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("spoil", SPOILT, ids=["another user's", "open to others"])
def test_a_file_of_usage_that_others_could_change_is_not_used(spoil: Callable[[Path], None]) -> None:
    usage = Path("usage.sqlite")
    Ledger(usage).close()
    spoil(usage)
    with pytest.raises(SageError, match="E670"):
        start()


def test_a_file_of_usage_is_no_link() -> None:
    Path("usage.sqlite").symlink_to("elsewhere")
    with pytest.raises(SageError, match="E670"):
        start()
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize("spoil", SPOILT, ids=["another user's", "open to others"])
def test_a_folder_of_batches_that_others_could_change_is_not_used(spoil: Callable[[Path], None]) -> None:
    Path("batches").mkdir(0o700)
    spoil(Path("batches"))
    with gateway_for(NOWHERE, models=(MODEL,)) as gateway:
        assert ask(gateway, "/v1/batches").error["code"] == "no_batches"
        assert ask(gateway, "/live").status == 200
    assert list(Path("batches").iterdir()) == []


@pytest.mark.parametrize("spoil", SPOILT, ids=["another user's", "open to others"])
def test_a_folder_of_keys_in_which_others_could_put_one_is_not_used(spoil: Callable[[Path], None]) -> None:
    keys = Path("keys")
    keys.mkdir(0o700)
    spoil(keys)
    with pytest.raises(SageError, match="E242"):
        start(keys_folder=str(keys))
