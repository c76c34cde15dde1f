import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.rag.sentences import Kind, split_sentences


def texts(text):
    return [text[s.start : s.end] for s in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It works. Does it? Yes!", ["It works.", "Does it?", "Yes!"]),
        ("See e.g. Dr. Smith, Fig. 3. Then go.", ["See e.g. Dr. Smith, Fig. 3.", "Then go."]),
        ("Version 3.11 is out. J. R. R. Tolkien wrote.", ["Version 3.11 is out.", "J. R. R. Tolkien wrote."]),
        ("He said “stop.” Then he left.", ["He said “stop.”", "Then he left."]),
        ("用蟒蛇。好吗？好！", ["用蟒蛇。", "好吗？", "好！"]),
        ("ما هذا؟ هذا كتاب.", ["ما هذا؟", "هذا كتاب."]),
        ("wrapped prose goes\non here. Next.", ["wrapped prose goes\non here.", "Next."]),
        ("- one\n- two\n  goes on\n- three", ["- one", "- two\n  goes on", "- three"]),
        ("Do this:\n>>> f(1)\n2.\n>>> f(2)\n3", ["Do this:", ">>> f(1)", "2.", ">>> f(2)", "3"]),
        ("Text.\n```\nA. B.\n\nC. D.\n```\nMore.", ["Text.", "```\nA. B.\n\nC. D.\n```", "More."]),
        ("", []),
        ("\n \n", []),
    ],
)
def test_splitting(text, expected):
    assert texts(text) == expected


def test_code_is_one_block():
    text = "Like this:\nimport os\nfor name in os.listdir():\n    print(name)\nThat was it."
    kinds = [(s.kind, text[s.start : s.end]) for s in split_sentences(text)]
    assert kinds[1] == (Kind.CODE, "import os\nfor name in os.listdir():\n    print(name)")


def test_neighbours_of_a_paragraph_share_its_number():
    first, second, third = split_sentences("One. Two.\n\nThree.")
    assert first.paragraph == second.paragraph != third.paragraph


@given(st.text(max_size=300))
def test_sentences_are_in_order_and_cover_everything_but_space(text):
    sentences = split_sentences(text)
    position = 0
    for sentence in sentences:
        assert not text[position : sentence.start].strip()
        assert sentence.start < sentence.end
        position = sentence.end
    assert not text[position:].strip()
