"""Tests that need the embedding model."""

import os

import pytest

from sage.errors import SageError
from sage.rag.model import require_model


def require_embedding_model() -> None:
    """Skip the test where the model is not installed; where CI=true, fail it."""
    try:
        require_model()
    except SageError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"in CI this test must run: {error}")
        pytest.skip(str(error))
