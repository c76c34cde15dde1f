from collections.abc import Iterator

import pytest

from endpoints import MisbehavingEndpoint


@pytest.fixture
def endpoint() -> Iterator[MisbehavingEndpoint]:
    with MisbehavingEndpoint() as running:
        yield running
