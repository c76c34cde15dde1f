"""Whether the network laboratory can be had here."""

import os

import pytest

from sage.errors import UsageError
from sage.testing.network import Network


@pytest.fixture(scope="session")
def laboratory() -> None:
    """Skips the test where the kernel makes no namespaces, as in an ordinary container; an error where CI=true."""
    try:
        with Network() as network:
            network.host("a")
    except UsageError as error:
        if error.code != "E131" or os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
