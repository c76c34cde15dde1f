"""What the tests of retrieval share: a small corpus, its index, and the mark of those that need the real model."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.errors import SageError
from sage.rag import Index
from sage.rag.model import require_model

Documents = list[dict[str, Any]]
BuildHere = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "model: needs the embedding model; skipped without it, an error where CI=true")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("model") is None:
        return
    try:
        require_model()
    except SageError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"in CI this test must run: {error}")
        pytest.skip(str(error))


@pytest.fixture
def documents() -> Documents:
    return [
        {"id": "copy", "title": "Copying files", "text": "The shutil module copies files. Use shutil.copyfile(a, b)."},
        {"id": "sort", "title": "Sorting lists", "text": "Lists are sorted in place by sort().", "year": 2001},
        {"id": "rain", "title": "Weather", "text": "Rain falls on the mountains in spring. The snow melts there."},
        {"id": "katze", "title": "", "text": "猫坐在垫子上。狗在花园里睡觉。"},
    ]


@pytest.fixture
def build_here(tmp_path: Path) -> BuildHere:
    """Build an index with the hashing embedder in the test's own folder, and say where it is."""

    def build(documents: Documents, name: str = "test.index", **options: Any) -> Path:
        return Index.build(documents, tmp_path / name, **{"model": "hashing", **options}).path

    return build
