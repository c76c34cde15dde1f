"""A value that fits a JSON schema: arguments of a tool call, answers in JSON.

Knows types, properties, items, enum, const, anyOf and its kin (the first), references within the schema, and the plain
limits of numbers, strings and arrays; not patterns and formats.
"""

from __future__ import annotations

import math
from typing import Any

MAX_DEPTH = 16
MAX_REPEATS = 64
"""Of items and characters that a schema may demand."""


def example_of(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """Null where the schema is not understood, or is nested more than `MAX_DEPTH` deep."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    for choice in ("enum", "anyOf", "oneOf", "allOf"):
        options = schema.get(choice)
        if isinstance(options, list) and options:
            return options[0] if choice == "enum" else example_of(options[0], root, depth + 1)
    if "$ref" in schema:
        return example_of(_resolved(schema["$ref"], root), root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else None)
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = schema.get("properties")
            items = properties.items() if isinstance(properties, dict) else ()
            return {name: example_of(inner, root, depth + 1) for name, inner in items}
        case "array":
            return [example_of(schema.get("items"), root, depth + 1) for _ in range(_size(schema, "Items", 1))]
        case "string":
            return ("the sun " * MAX_REPEATS)[: _size(schema, "Length", 7)]
        case "integer":
            return math.ceil(_least(schema))
        case "number":
            return _least(schema)
        case "boolean":
            return True
    return None


def _resolved(reference: Any, root: Any) -> Any:
    found = root
    for name in str(reference).removeprefix("#/").split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _size(schema: dict[str, Any], of: str, usual: int) -> int:
    """As it usually is, within what is demanded."""
    return max(_limit(schema.get(f"min{of}"), 0), min(usual, _limit(schema.get(f"max{of}"), usual)))


def _limit(given: Any, default: int) -> int:
    return min(given, MAX_REPEATS) if isinstance(given, int) and given >= 0 else default


def _least(schema: dict[str, Any]) -> float:
    for bound, offset in (("minimum", 0), ("exclusiveMinimum", 1), ("maximum", 0), ("exclusiveMaximum", -1)):
        if isinstance(schema.get(bound), int | float):
            return float(schema[bound]) + offset
    return 1.0
