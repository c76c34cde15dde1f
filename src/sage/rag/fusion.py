"""Making one ranking of what lexical and dense search found. Pure arithmetic.

Ranks alone say nothing about how good the best hit is, so what is added up here are scores that mean something:

* *similarity*: the cosine between the question and the passage, from the embedding model;
* *coverage*: the passage's BM25 score as a share of what a passage would get in which every word of the question stands
  often: between 0 and 1, and small where the question's rare words are missing.

Three corrections make them comparable, each found by measuring (see ``benchmarks/retrieval.py``):

* a document of many passages has many chances, so the best of n counts for less (`CHANCE_*` per doubling of n);
* coverage counts more than in proportion (`COVERAGE_POWER`): half of the words is less than half of the evidence;
* where the question is similar to *everything*, the model does not know the language, or all documents are about one
  thing; similarity then loses weight (`TRUST_*`). That is judged by the cosine to the centre of all vectors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float32]]
    Integers = np.ndarray[Any, np.dtype[np.int64]]

COVERAGE_WEIGHT = 0.5
COVERAGE_POWER = 1.5
CHANCE_OF_SIMILARITY = 0.05
CHANCE_OF_COVERAGE = 0.02
TRUSTED_BACKGROUND = 0.15
TRUST_LOSS = 9.0


def trust_in_similarity(background: float) -> float:
    """How much similarities to this question say, 1 or less; `background` is its mean cosine to all passages."""
    return math.exp(-TRUST_LOSS * max(0.0, background - TRUSTED_BACKGROUND))


def fuse(similarity: Floats, coverage: Floats, counts: tuple[Integers, Integers], trust: float) -> Floats:
    """The score of each document (or passage) from its best similarity and coverage.

    `counts` says among how many passages each of the two was the best one.
    """
    import numpy as np

    similar = similarity - CHANCE_OF_SIMILARITY * np.log2(counts[0])
    covered = np.maximum(0, coverage - CHANCE_OF_COVERAGE * np.log2(counts[1]))
    fused: Floats = (trust * similar + COVERAGE_WEIGHT * covered**COVERAGE_POWER).astype(np.float32)
    return fused
