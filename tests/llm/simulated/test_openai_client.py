"""What the simulated endpoint refuses, as the official client sees it; what it answers is in tests/gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sage.llm.simulated import SimulatedEndpoint

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("default")
MODEL = "tiny-model"
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint("tiny", api_key="secret") as running:
        yield running


@pytest.fixture
def client(endpoint: SimulatedEndpoint) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="secret", max_retries=0) as made:
        yield made


def test_errors_are_of_the_right_class(endpoint: SimulatedEndpoint, client: Any) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError):
        create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        create(model=MODEL, messages=MESSAGES, max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    for fault, kind in (("429=1", openai.RateLimitError), ("500", openai.InternalServerError)):
        endpoint.set_faults(f"{fault}*1")
        with pytest.raises(kind):
            create(model=MODEL, messages=MESSAGES)
    endpoint.set_faults()
