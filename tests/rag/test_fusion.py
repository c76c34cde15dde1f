import numpy as np
import pytest

from sage.rag.fusion import fuse, trust_in_similarity


def one(similarity, coverage, vectors=1, passages=1, trust=1.0):
    values = [np.array([value], np.float32) for value in (similarity, coverage)]
    counts = (np.array([vectors]), np.array([passages]))
    return float(fuse(*values, counts, trust)[0])


def test_both_kinds_of_evidence_count():
    assert one(0.6, 0.5) > one(0.5, 0.5) > one(0.5, 0.4) > one(0.5, 0.0) == pytest.approx(0.5)


def test_half_of_the_words_is_less_than_half_of_the_evidence():
    assert one(0, 0.5) < one(0, 1.0) / 2


def test_the_best_of_many_counts_for_less():
    assert one(0.5, 0.5, vectors=1) > one(0.5, 0.5, vectors=3) > one(0.5, 0.5, vectors=3, passages=50)
    assert one(0.0, 0.01, passages=1000) == 0.0


def test_similarity_to_everything_is_not_trusted():
    assert trust_in_similarity(-0.2) == trust_in_similarity(0.15) == 1.0
    assert 0.05 < trust_in_similarity(0.4) < 0.2
