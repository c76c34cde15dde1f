import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import PipelineError
from sage.rag import chunk
from sage.rag.chunking import count_words

SENTENCES = "One two three. Four five six seven. Eight nine. Ten eleven twelve thirteen fourteen."


def test_chunks_are_whole_sentences_with_their_places():
    chunks = chunk(SENTENCES, max_size=8)
    assert [c.text for c in chunks] == [
        "One two three. Four five six seven.",
        "Eight nine. Ten eleven twelve thirteen fourteen.",
    ]
    assert all(SENTENCES[c.start : c.end] == c.text for c in chunks)


def test_overlap_repeats_the_last_sentences():
    chunks = chunk(SENTENCES, max_size=8, overlap=4)
    assert chunks[1].text.startswith("Four five six seven. Eight nine.")


def test_a_paragraph_that_fits_alone_is_not_torn():
    text = "A b c d e f.\n\nOne two three. Four five six."
    assert [c.text for c in chunk(text, max_size=8)] == ["A b c d e f.", "One two three. Four five six."]


def test_a_sentence_that_is_too_long_is_cut_between_words():
    text = " ".join(f"w{i}" for i in range(100))
    chunks = chunk(text, max_size=10)
    assert all(1 <= count_words([c.text])[0] <= 10 for c in chunks)
    assert " ".join(c.text.strip() for c in chunks).split() == text.split()


@pytest.mark.parametrize(
    "text",
    [
        "猫坐在垫子上。狗在花园里睡觉。鸟在树上唱歌。鱼在水里游泳。",
        "ما هذا؟ هذا كتاب كبير. وتلك مدرسة قديمة في المدينة. أين البيت؟ البيت هناك.",
        "🏳️‍🌈🏳️‍🌈🏳️‍🌈" * 30,
        "é" * 50,
    ],
)
def test_any_script_is_cut_without_loss(text):
    chunks = chunk(text, max_size=6)
    assert all(text[c.start : c.end] == c.text for c in chunks)
    assert all(c.text.strip()[:1] not in ("\u200d", "\ufe0f", "\u0301") for c in chunks)
    if count_words([text])[0]:
        assert sum(count_words([c.text])[0] for c in chunks) >= count_words([text])[0]


@pytest.mark.parametrize("text", ["", " \n\t ", "...", "\ufeff"])
def test_a_text_without_words_has_no_chunks(text):
    assert chunk(text) == []


@pytest.mark.parametrize(("max_size", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_sizes_without_sense_are_refused(max_size, overlap):
    with pytest.raises(PipelineError, match="E260"):
        chunk("text", max_size, overlap)


def test_three_megabytes_in_one_sentence_and_in_many():
    started = time.process_time()
    one = chunk("x" * 3_000_000, max_size=100)
    many = chunk("A short sentence stands here. " * 100_000, max_size=100)
    assert "".join(c.text for c in one) == "x" * 3_000_000
    assert len(many) == 5_000
    assert time.process_time() - started < 60  # quadratic time would be hours


@given(st.text(max_size=400), st.integers(1, 20), st.data())
def test_every_chunk_is_a_slice_and_no_word_is_lost(text, max_size, data):
    overlap = data.draw(st.integers(0, max_size - 1))
    chunks = chunk(text, max_size, overlap)
    assert all(text[c.start : c.end] == c.text for c in chunks)
    assert [c.start for c in chunks] == sorted({c.start for c in chunks})
    covered = {place for c in chunks for place in range(c.start, c.end)}
    assert all(place in covered for place, letter in enumerate(text) if count_words([letter])[0])
