"""A job manager for each test that asks for one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.managers import Managed

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture
def managed(tmp_path: Path, wait_until: Wait) -> Iterator[Managed]:
    """Its folder; the test starts the manager. Afterwards no process of it is left."""
    managed = Managed(tmp_path)
    yield managed
    managed.close()
    wait_until(lambda: managed.processes() == [])
