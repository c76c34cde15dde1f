"""A LangChain runnable and a Haystack component as steps of a pipeline.

SAGE needs neither package. `from_langchain` takes anything with ``ainvoke``, `from_haystack` anything with ``run``;
what cannot be pickled is given as a function that makes it, which is called where the step runs.

    pip install langchain-core haystack-ai      (either, or both)
    python examples/06_other_frameworks.py
"""

from importlib.util import find_spec
from typing import Any

import sage
from sage.connectors import Items
from sage.rag import from_haystack, from_langchain

QUESTIONS = [{"question": "what is a tuple?"}, {"question": "what is a closure?"}]


def shouting() -> Any:
    """A LangChain runnable; a chain of a prompt, a model and a parser is one, too."""
    from langchain_core.runnables import RunnableLambda

    return RunnableLambda(str.upper)


def prompting() -> Any:
    """A Haystack component."""
    from haystack.components.builders import PromptBuilder

    return PromptBuilder("Answer briefly: {{ question }}", required_variables=["question"])


pipeline = sage.Pipeline("frameworks")
stream = pipeline.read(Items(QUESTIONS))
if find_spec("langchain_core") is not None:
    stream = stream.map(from_langchain(shouting, field="question", into="shouted"))
if find_spec("haystack") is not None:
    stream = stream.map(from_haystack(prompting, inputs={"question": "question"}, output="prompt", into="prompt"))
stream.collect()

if __name__ == "__main__":
    for record in sage.run(pipeline).collected():
        print(record)
        if record.keys() == {"question"}:
            print("  as it was read: neither langchain-core nor haystack-ai is installed")
