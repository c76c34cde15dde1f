"""Server-sent events and error bodies, whatever the bytes are and however they arrive."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.llm.wire import Events, Said, TooLarge, said

documents = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=6)


@given(documents, st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([b"data:", b"data: "]), st.data())
def test_events_do_not_depend_on_how_they_arrive(
    sent: list[dict[str, str]], newline: bytes, prefix: bytes, data: st.DataObject
) -> None:
    stream = b"".join(prefix + json.dumps(document).encode() + newline * 2 + b": ping" + newline for document in sent)
    events = Events()
    received = []
    while stream:
        size = data.draw(st.integers(min_value=1, max_value=len(stream)))
        received += [json.loads(document) for document in events.feed(stream[:size])]
        stream = stream[size:]
    assert received == sent


def test_a_line_without_its_newline_is_no_event() -> None:
    assert list(Events().feed(b"data: 1\ndata: 2")) == [b"1"]


def test_a_line_has_a_limit_however_slowly_it_comes() -> None:
    events = Events()
    for _ in range(10):
        assert list(events.feed(b"x" * 100_000)) == []
    with pytest.raises(TooLarge):
        list(events.feed(b"x" * 100_000))


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_error_body_says_something(body: bytes | str) -> None:
    assert isinstance(said(body if isinstance(body, bytes) else body.encode()).message, str)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "m", "type": "t", "code": "c"}}', Said("m", "c")),
        (b'{"error": {"message": "m", "type": "t", "code": null}}', Said("m", "t")),
        (b'{"error": "m"}', Said("m")),
        (b'{"object": "error", "message": "m", "code": 400}', Said("m", "400")),
        (b'{"detail": "m"}', Said("m")),
        (b'{"detail": [{"msg": "m"}]}', Said('[{"msg":"m"}]')),
        (b'["m"]', Said('["m"]')),
        (b" m\n", Said("m")),
        (b"\xff", Said("\ufffd")),
        (b"[" * 100_000, Said("[" * 100_000)),
        (b"", Said("")),
    ],
)
def test_forms_of_error_bodies(body: bytes, expected: Said) -> None:
    assert said(body) == expected
