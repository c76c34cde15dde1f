"""Answers in JSON: what the model is asked for, what is taken for an answer, and what becomes of all others."""

import json
import pickle
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

import sage
from endpoints import MisbehavingEndpoint
from sage.connectors import Items
from sage.errors import PipelineError
from sage.rag import Extract, Generate, Prompt


class Judged(TypedDict):
    mood: Literal["good", "bad"]
    stars: Annotated[int, msgspec.Meta(ge=1, le=5)]


@dataclass
class JudgedData:
    mood: Literal["good", "bad"]
    stars: int


class JudgedModel(BaseModel):
    mood: Literal["good", "bad"]
    stars: int


GOOD = {"mood": "good", "stars": 4}
SAID = "ok:" + json.dumps(GOOD)


def ask(endpoint: MisbehavingEndpoint, schema: Any, words: list[str], **options: Any) -> sage.RunResult:
    endpoint.script(words)
    pipeline = sage.Pipeline("shapes")
    prompted = pipeline.read(Items([{"text": "fine"}])).map(Prompt("Good or bad? {text}"))
    prompted.map(Generate(endpoint.url, schema=schema, into="judged"), **options).collect()
    return sage.run(pipeline, dead_letters="shapes.dead.jsonl")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mood", "stars"],
}


@pytest.mark.parametrize("schema", [Judged, JudgedData, JudgedModel, SCHEMA])
def test_an_answer_is_asked_for_and_read_as_a_schema_says(schema):
    with MisbehavingEndpoint() as endpoint:
        (record,) = ask(endpoint, schema, [SAID]).collected()
    assert record.keys() == {"text", "prompt", "judged", "answered_by", "usage"}
    assert record["judged"] == GOOD
    asked = endpoint.requests[0].body["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["schema"]["type"] == "object"
    assert asked["json_schema"]["schema"]["properties"].keys() == GOOD.keys()


def test_a_schema_may_be_any_type_of_plain_values():
    with MisbehavingEndpoint() as endpoint:
        assert ask(endpoint, list[str], ['ok:["a", "b"]']).collected()[0]["judged"] == ["a", "b"]
        assert ask(endpoint, dict, ['ok:```json\n{"any": 1}\n```']).collected()[0]["judged"] == {"any": 1}


@pytest.mark.parametrize("wrong", ["ok:good", 'ok:{"mood": "good"}', 'ok:{"mood": "good", "stars": 9}'])
def test_an_answer_of_another_shape_is_asked_for_again(wrong):
    with MisbehavingEndpoint() as endpoint:
        result = ask(endpoint, Judged, [wrong, SAID])
        assert (result.collected()[0]["judged"], len(endpoint.requests)) == (GOOD, 2)
        result = ask(endpoint, Judged, [wrong], retries=0)
    assert str(result.account) == "read 1 = written 0 + dead-lettered 1 + filtered 0"
    with open("shapes.dead.jsonl") as letters:
        (letter,) = map(json.loads, letters)
    assert letter["code"] == "E736"
    assert wrong.removeprefix("ok:") in letter["reason"]


def test_an_answer_that_was_cut_off_is_not_asked_for_again():
    with MisbehavingEndpoint() as endpoint:
        result = ask(endpoint, Judged, ["length"])
        assert (result.account.dead_lettered, len(endpoint.requests)) == (1, 1)
    with open("shapes.dead.jsonl") as letters:
        assert "E473" in letters.read()


@pytest.mark.parametrize("schema", [5, object, len])
def test_what_is_no_type_of_plain_values(schema):
    with pytest.raises(PipelineError, match=r"E217 .* at Generate\(schema=...\)"):
        Generate(schema=schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objct"},
        {"properties": 5},
        {"pattern": "("},
        {"$ref": "#/$defs/absent"},
        {"$ref": "http://127.0.0.1:1/a.json"},
        {"$ref": "file:///etc/passwd"},
    ],
)
def test_what_is_no_schema_is_said_before_anything_is_read(schema):
    pipeline = sage.Pipeline("shapes")
    pipeline.read(Items([{"prompt": "x"}])).map(Generate("http://127.0.0.1:1", schema=schema)).collect()
    with pytest.raises(PipelineError, match="E217 this is no JSON schema"):
        sage.run(pipeline)


def test_a_type_of_the_script_need_not_travel():
    """Only its JSON schema does: types by value lose what makes them types."""

    class Inner(TypedDict):
        stars: Annotated[int, msgspec.Meta(ge=1)]

    class Outer(TypedDict):
        judged: list[Inner]

    with MisbehavingEndpoint() as endpoint:
        generate = pickle.loads(pickle.dumps(Generate(endpoint.url, schema=Outer)))
        endpoint.script(['ok:{"judged": [{"stars": 0}]}', 'ok:{"judged": [{"stars": 1}]}'])
        pipeline = sage.Pipeline("shapes")
        pipeline.read(Items([{"prompt": "x"}])).map(generate).collect()
        assert sage.run(pipeline).collected()[0]["answer"] == {"judged": [{"stars": 1}]}


def test_without_an_endpoint_it_is_said_before_anything_is_read():
    pipeline = sage.Pipeline("shapes")
    quotes = Extract(model="hashing")
    pipeline.read(Items([{"prompt": "x"}])).map(Generate(schema=dict, without_endpoint=quotes)).collect()
    with pytest.raises(PipelineError, match="E268 answers of a given shape need a model"):
        sage.run(pipeline)


def test_without_an_endpoint_and_passages_there_is_nothing_to_quote():
    pipeline = sage.Pipeline("shapes")
    quotes = Extract(model="hashing")
    pipeline.read(Items([{"prompt": "x"}])).map(Generate(without_endpoint=quotes), on_error="fail").collect()
    with pytest.raises(sage.SageError, match="no endpoint is set, and the record has no passages to quote"):
        sage.run(pipeline)
