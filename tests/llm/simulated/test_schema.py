"""Answers in JSON: what the simulated endpoint makes up fits the schema that it was asked for."""

from typing import Any

import fastjsonschema
from hypothesis import given
from hypothesis import strategies as st

from sage.llm.simulated.schema import MAX_REPEATS, example_of

SIZES = st.integers(0, MAX_REPEATS)


def sized(kind: str, of: str, **more: Any) -> st.SearchStrategy[dict[str, Any]]:
    """With either limit, with both, or with none."""
    both = st.tuples(SIZES, SIZES).map(sorted).map(lambda two: {f"min{of}": two[0], f"max{of}": two[1]})
    one = SIZES.map(lambda n: {f"min{of}": n}) | SIZES.map(lambda n: {f"max{of}": n})
    return (both | one | st.just({})).map(lambda limits: {"type": kind, **limits, **more})


NUMBERS = st.tuples(
    st.sampled_from(["integer", "number"]),
    st.sampled_from(["minimum", "exclusiveMinimum"]),
    st.floats(-1e6, 1e6),
).map(lambda parts: {"type": parts[0], parts[1]: parts[2]})
PLAIN = (
    sized("string", "Length") | NUMBERS | st.sampled_from([{"type": "boolean"}, {"enum": ["a", 1]}, {"const": None}])
)
LISTS = PLAIN.flatmap(lambda items: sized("array", "Items", items=items))


@given(st.dictionaries(st.text("abc", min_size=1), PLAIN | LISTS, max_size=3))
def test_what_is_made_up_fits_the_schema(properties: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    fastjsonschema.validate(schema, example_of(schema))
