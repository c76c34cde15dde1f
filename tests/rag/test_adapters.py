"""With the real packages where they are installed, and always with objects that keep the same promises."""

import asyncio
import pickle
import threading

import pytest

from sage.errors import PipelineError, RecordError
from sage.rag import from_haystack, from_langchain


class Shout:
    """Keeps the promise of a LangChain runnable."""

    async def ainvoke(self, value, config=None, **kwargs):
        return str(value).upper()


class Repeat:
    """Keeps the promise of a Haystack component that has to be warmed up."""

    def __init__(self):
        self.warm = False

    def warm_up(self):
        self.warm = True

    def run(self, query, times=2):
        assert self.warm
        return {"replies": [query] * times, "meta": {}}


class Unpicklable(Shout):
    def __init__(self):
        self.lock = threading.Lock()


def make_unpicklable():
    return Unpicklable()


def make_repeat():
    return Repeat()


@pytest.mark.parametrize("runnable", [Shout(), Shout, Unpicklable, make_unpicklable])
def test_a_runnable_or_what_makes_one(runnable):
    operator = from_langchain(runnable)
    operator.open()
    assert asyncio.run(operator({"question": "hi", "n": 1})) == {"question": "hi", "n": 1, "answer": "HI"}


def test_a_runnable_may_take_the_whole_record():
    operator = from_langchain(Shout(), field=None, into="loud")
    assert asyncio.run(operator({"a": 1}))["loud"] == "{'A': 1}"


@pytest.mark.parametrize("component", [Repeat(), Repeat, make_repeat])
def test_a_component_or_what_makes_one(component):
    operator = from_haystack(component, inputs={"query": "question"}, output="replies")
    assert operator({"question": "hi"}) == {"question": "hi", "answer": ["hi", "hi"]}
    everything = from_haystack(component, inputs={"query": "question"})
    assert everything({"question": "hi"})["answer"] == {"replies": ["hi", "hi"], "meta": {}}


def test_factories_are_shipped_and_live_objects_are_not():
    for operator in (from_langchain(Unpicklable), from_haystack(Repeat, inputs={"query": "question"})):
        operator.open()
        assert pickle.loads(pickle.dumps(operator))._live is None


def test_mistakes():
    with pytest.raises(PipelineError, match="E267 this is not a LangChain runnable"):
        from_langchain(object()).open()
    with pytest.raises(PipelineError, match="E267 this is not a Haystack component"):
        from_haystack(dict, inputs={}).open()
    with pytest.raises(RecordError, match=r"E463 .*got replies, meta, expected answers"):
        from_haystack(Repeat, inputs={"query": "question"}, output="answers")({"question": "hi"})
    with pytest.raises(RecordError, match="E461"):
        from_haystack(Repeat, inputs={"query": "question"})({})
    with pytest.raises(RecordError, match="E461"):
        asyncio.run(from_langchain(Shout())({}))


def test_with_the_real_langchain():
    runnables = pytest.importorskip("langchain_core.runnables")
    prompts = pytest.importorskip("langchain_core.prompts")
    chain = prompts.PromptTemplate.from_template("Q: {q}") | runnables.RunnableLambda(lambda value: value.text.upper())
    operator = from_langchain(lambda: {"q": lambda text: text} | chain)
    assert asyncio.run(operator({"question": "hi"}))["answer"] == "Q: HI"


def test_with_the_real_haystack():
    builders = pytest.importorskip("haystack.components.builders")
    operator = from_haystack(
        lambda: builders.PromptBuilder("Q: {{ query }}", required_variables=["query"]),
        inputs={"query": "question"},
        output="prompt",
    )
    assert operator({"question": "hi"})["answer"] == "Q: hi"
