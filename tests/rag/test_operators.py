import asyncio
import pickle

import numpy as np
import pytest

from endpoints import MisbehavingEndpoint
from sage.errors import PipelineError, RecordError, StorageError
from sage.rag import Embed, Extract, Generate, Index, Prompt, Retrieve
from sage.rag.extract import NO_ANSWER
from sage.rag.model import MODEL_NAME

PASSAGES = [
    {
        "id": "zip",
        "title": "zip",
        "text": "zip() pairs things. It stops at the shortest one.",
        "score": 0.9,
        "start": 100,
    },
    {"id": "sum", "title": "", "text": "sum() adds numbers.", "score": 0.8, "start": 0},
]


def test_the_steps_add_keys_and_keep_the_others(documents, build_here):
    records = [{"question": "how do I copy files", "n": 1}, {"question": "", "n": 2}]
    retrieve = Retrieve(build_here(documents), top_k=2)
    embedded = Embed(model="hashing")(records)
    done = [Extract(model="hashing", min_evidence=0.2)(Prompt()(retrieve(record))) for record in embedded]
    retrieve.close()
    assert [record["n"] for record in done] == [1, 2]
    assert records[0].keys() == {"question", "n"}
    assert done[0]["passages"][0]["id"] == "copy"
    assert "[1] Copying files" in done[0]["prompt"][1]["content"]
    assert done[0]["answered_by"] == "extractive"
    assert done[0]["sources"][0]["id"] == "copy"
    assert (done[1]["passages"], done[1]["answer"], done[1]["sources"]) == ([], NO_ANSWER, [])


@pytest.mark.parametrize(
    "operator", [Embed(model="hashing"), Retrieve("x.index"), Prompt("{question}"), Extract(), Generate()]
)
def test_operators_are_picklable(operator):
    copy = pickle.loads(pickle.dumps(operator))
    assert {k: v for k, v in vars(copy).items() if isinstance(v, str | int)} == {
        k: v for k, v in vars(operator).items() if isinstance(v, str | int)
    }


def test_an_open_operator_can_still_be_pickled(documents, build_here):
    retrieve = Retrieve(build_here(documents))
    retrieve.open()
    copy = pickle.loads(pickle.dumps(retrieve))
    assert copy({"question": "shutil"})["passages"][0]["id"] == "copy"
    retrieve.close()
    copy.close()


def test_a_vector_in_the_record_is_used(documents, build_here):
    path = build_here(documents)
    with Index(path) as index:
        rain = index.embed("rain falls on the mountains in spring")
    retrieve = Retrieve(path, top_k=1)
    assert retrieve({"question": "melts", "vector": rain})["passages"][0]["id"] == "rain"
    with pytest.raises(RecordError, match="E462"):
        retrieve({"question": "melts", "vector": np.ones(5)})
    retrieve.close()


def test_an_index_of_another_model_is_refused(documents, build_here):
    path = build_here(documents)
    with pytest.raises(StorageError, match=rf"E665 .*got hashing, expected {MODEL_NAME}"):
        Retrieve(path, model=MODEL_NAME).check()
    with pytest.raises(StorageError, match="E662"):
        Retrieve(path.parent / "absent").open()


@pytest.mark.parametrize("record", [{}, {"question": None}, {"question": 5}, "text", None])
def test_records_without_a_question_are_at_fault_themselves(record, documents, build_here):
    retrieve = Retrieve(build_here(documents))
    for call in (retrieve, Prompt(), Extract(model="hashing"), lambda r: Embed(model="hashing")([r])):
        with pytest.raises(RecordError, match="E461"):
            call(record)
    retrieve.close()


@pytest.mark.parametrize("passages", [None, "text", [1], [{"id": "no text"}]])
def test_records_without_passages(passages):
    for call in (Prompt(), Extract(model="hashing")):
        with pytest.raises(RecordError, match="E461 the record has no passages"):
            call({"question": "why", "passages": passages})


def test_a_prompt_takes_nothing_from_records_for_a_template():
    evil = "{question.__class__} {passages} {0} %s ${x} {{7*7}}"
    record = {"question": evil, "passages": [{"id": "e", "title": evil, "text": evil}], "lang": "fr"}
    prompt = Prompt("In {lang}: {question} from {passages} {{as is}}", system=None)(record)["prompt"]
    assert prompt == [{"role": "user", "content": f"In fr: {evil} from [1] {evil}\n{evil} {{as is}}"}]


@pytest.mark.parametrize(
    "template", ["{question.name}", "{question[0]}", "{question!r}", "{question:>9}", "{}", "{", "}", "{0}"]
)
def test_templates_that_would_do_more_are_refused(template):
    with pytest.raises(PipelineError, match="E266"):
        Prompt(template)


def test_a_template_that_asks_for_what_is_not_there():
    with pytest.raises(RecordError, match=r"E461 .*'tone'"):
        Prompt("{tone}")({"question": "x", "passages": []})


def test_a_prompt_without_passages_needs_no_more_than_its_template_names():
    prompt = Prompt("Good or bad? {text} ({stars} stars)")
    assert prompt({"text": "fine", "stars": 4})["prompt"] == [
        {"role": "user", "content": "Good or bad? fine (4 stars)"}
    ]
    with pytest.raises(RecordError, match=r"E461 .* 'text': got the keys body, stars"):
        prompt({"body": "fine", "stars": 4})
    with pytest.raises(RecordError, match=r"E461 .* 'text': got None"):
        prompt({"text": None, "stars": 4})


def test_quotes_are_exact_and_say_where_they_stand():
    done = Extract(model="hashing", min_evidence=0.1, max_sentences=1)(
        {"question": "is the shortest one its end", "passages": PASSAGES}
    )
    (source,) = done["sources"]
    assert source == {
        "number": 1, "id": "zip", "title": "zip", "start": 100, "end": 149,
        "quote": "zip() pairs things. It stops at the shortest one.",
    }  # fmt: skip
    assert done["answer"] == "zip() pairs things. It stops at the shortest one. [1]"


def test_a_colon_brings_its_code_and_a_verdict_its_reason():
    text = "Reverse a list\nlike this:\n>>> x[::-1]\n[3, 2, 1]\n\nIt is quick. Unrelated talk follows here."
    done = Extract(model="hashing", min_evidence=0.1, max_sentences=1)(
        {"question": "how to reverse a list", "passages": [{"text": text}]}
    )
    assert done["answer"].startswith("Reverse a list like this:\n>>> x[::-1]")
    text = "Yes. The module curses has functions for terminals of that kind."
    done = Extract(model="hashing", min_evidence=0.1, max_sentences=1)(
        {"question": "is there a curses module for terminals", "passages": [{"text": text}]}
    )
    assert done["answer"].startswith("Yes. The module")


def test_the_question_itself_is_no_answer():
    passages = [{"text": "How do I cache method calls? Decorate them with lru_cache to cache calls."}]
    done = Extract(model="hashing", min_evidence=0.1)(
        {"question": "How do I cache method calls?", "passages": passages}
    )
    assert done["answer"] == "Decorate them with lru_cache to cache calls. [1]"


@pytest.mark.model
def test_a_question_that_nothing_answers():
    extract = Extract()
    asked = {"question": "Who won the football match yesterday?", "passages": PASSAGES}
    assert extract(asked)["answer"] == NO_ANSWER
    asked["question"] = "Which built-in function adds numbers?"
    assert extract(asked)["answer"] == "sum() adds numbers. [2]"
    extract.close()


def run(generate, *records):
    async def all_of_them():
        try:
            await generate.open()
            return await asyncio.gather(*map(generate, records))
        finally:
            await generate.close()

    return asyncio.run(all_of_them())


def test_without_an_endpoint_generate_quotes():
    generate = Generate(without_endpoint=Extract(model="hashing", min_evidence=0.1))
    (done,) = run(generate, {"question": "what adds numbers", "passages": PASSAGES})
    assert done["answered_by"] == "extractive"
    assert done["answer"].endswith("sum() adds numbers. [2]")


def test_with_an_endpoint_generate_asks_it(monkeypatch):
    with MisbehavingEndpoint() as endpoint:
        monkeypatch.setenv("SAGE_LLM_URL", endpoint.url)
        first, second = run(
            Generate(),
            {"prompt": [{"role": "user", "content": "hi"}], "passages": PASSAGES},
            {"prompt": "plain text"},
        )
        with pytest.raises(RecordError, match="E461 the record has no prompt"):
            run(Generate(), {"question": "no prompt"})
    assert (first["answer"], first["answered_by"]) == ("ok: hi", "test-model")
    assert first["usage"].keys() == {"prompt_tokens", "completion_tokens"}
    assert [source["id"] for source in first["sources"]] == ["zip", "sum"]
    assert second["answer"] == "ok: plain text"
