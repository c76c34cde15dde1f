"""The shape of an answer in JSON: told to the model, and checked when the answer is there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sage.errors import EndpointError, MissingDependency, PipelineError, RecordError, shorten
from sage.llm.wire import Completion

_AT = "Generate(schema=...)"


def _elsewhere(uri: str) -> Any:
    raise ValueError(f"it refers to {uri}, and nothing is fetched")


_HANDLERS = dict.fromkeys(("http", "https", "ftp", "file"), _elsewhere)


class Shape:
    """A JSON schema, and what reads an answer by it.

    `kind` is such a schema (a dict), a TypedDict, a dataclass, a `msgspec.Struct`, a pydantic model, or another type
    made of plain values (``list[str]``, ``Literal["yes", "no"]``). Raises `PipelineError` E217 for anything else. Only
    the schema travels, so the type may be one of the user's script.
    """

    def __init__(self, kind: Any) -> None:
        self.schema = _schema_of(kind)
        self._validate: Callable[[Any], Any] | None = None

    def open(self) -> None:
        """Get ready to read. Raises `MissingDependency`, and `PipelineError` E217 for what is no JSON schema."""
        try:
            import fastjsonschema
        except ImportError as error:
            raise MissingDependency("fastjsonschema", "llm", "answers of a given shape") from error
        try:
            self._validate = fastjsonschema.compile(self.schema, handlers=_HANDLERS, use_default=False)
        except (ValueError, TypeError, AttributeError, re.error) as error:  # the library's own are ValueErrors
            raise PipelineError("E217", "this is no JSON schema", at=_AT, got=str(error)) from error

    def asked_for(self) -> dict[str, Any]:
        """What goes into the request."""
        described = {"name": "answer", "schema": self.schema}
        return {"response_format": {"type": "json_schema", "json_schema": described}}

    def read(self, completion: Completion) -> Any:
        """The answer as plain values.

        Raises `EndpointError` E736 for one of another shape (the next may be better), and `RecordError` E473 for one
        that was cut off (the next would be, too).
        """
        text = completion.text
        if completion.finish_reason == "length":
            raise RecordError(
                "E473", "the answer in JSON was cut off", at="Generate", got=text, expected="its end within max_tokens",
                try_="a larger Generate(max_tokens=...)",
            )  # fmt: skip
        if self._validate is None:
            self.open()
        assert self._validate is not None
        try:
            return self._validate(msgspec.json.decode(_without_fence(text)))
        except (ValueError, RecursionError) as error:  # of the library and of msgspec, all are ValueErrors
            raise EndpointError(
                "E736", f"the model's answer has not the shape that was asked for: {error}", at="Generate", got=text
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_validate": None}


def _schema_of(kind: Any) -> dict[str, Any]:
    if isinstance(kind, dict):
        return kind
    try:
        if isinstance(kind, type) and hasattr(kind, "model_json_schema"):  # pydantic's, which SAGE does not import
            return _at_the_root(kind.model_json_schema())
        return _at_the_root(msgspec.json.schema(kind))
    except (TypeError, NameError) as error:  # a NameError: of an annotation
        raise PipelineError(
            "E217", f"answers cannot have this type ({shorten(str(error))})", at=_AT, got=kind,
            expected="a JSON schema, a TypedDict, a dataclass, a pydantic model or a type made of plain values",
        ) from error  # fmt: skip


def _at_the_root(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` without a reference at its root, which some endpoints do not follow."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if not name:
        return dict(schema)
    return {**schema["$defs"][name], "$defs": schema["$defs"]}


def _without_fence(text: str) -> str:
    """Models without a grammar like to put JSON into a block of Markdown."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        return text.removeprefix("```").removeprefix("json").removesuffix("```")
    return text
