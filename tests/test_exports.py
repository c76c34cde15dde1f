"""The public names: exactly these, each with a docstring; and `import sage` stays light."""

import importlib
import inspect
import subprocess
import sys

import pytest

EXPORTS = {
    "sage": """
        Account EndpointBusy EndpointError Job JobSnapshot MissingDependency Operator OperatorContext Pipeline
        PipelineError RecordError RunOptions RunResult SageError Sink SinkError Source SourceError Status Stream
        __version__ compile_pipeline run start
    """,
    "sage.flow": """
        Branches Chunk Edge ExecutionGraph Fault Input KeyedStream Kind Mode Operator
        OperatorContext Pipeline Reader Reduction Rejected Sink SinkContext Source Step StepOptions
        StepPlan Stream TaskPlan Writer compile_pipeline
    """,
    "sage.runtime": """
        Account Job JobSnapshot RunOptions RunResult Status StepSnapshot run start
    """,
    "sage.connectors": """
        Csv Directory First Items JsonLines KeyValue Parquet SQL SQLite Stdin Stdout Text
    """,
    "sage.llm": """
        ChatClient Completion EndpointPool Message
    """,
    "sage.llm.simulated": """
        PROFILES Engine EngineSnapshot Fault Profile Request Running SimulatedEndpoint Step profile_named
    """,
    "sage.gateway": """
        EndpointConfig Gateway GatewayConfig KeyConfig Ledger TenantConfig Used load_config new_key
    """,
    "sage.rag": """
        Answer Embed Extract Generate Index IndexSink IndexSummary Passage Prompt Retrieve TextChunk ask chunk
        from_haystack from_langchain index_files install_model
    """,
    "sage.scheduling": """
        Adaptive Cluster Costs DEFAULT Decision Fifo Group LoadAwarePack LoadAwareSpread Node Priority Replica
        RoundRobin Scheduler SchedulingError Speeds Task Work names register scheduler_named
    """,
    "sage.cluster": """
        Cluster Node connect join private
    """,
    "sage.simulation": """
        Closed ClusterModel Demand JobModel NetworkModel NodeModel Outcome PIPELINES Phase Poisson Replay Rows
        balance_of bottleneck_of computing nodes_of pipeline_named read_trace simulate
    """,
    "sage.testing": """
        check_queue check_queue_bytes check_queue_ends check_scheduler check_sink check_source
    """,
    "sage.testing.network": """
        Crossed Host Link Network RayCluster Wire
    """,
}


@pytest.mark.parametrize("module", EXPORTS)
def test_the_public_names(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(EXPORTS[module].split())
    assert len(set(found.__all__)) == len(found.__all__)
    for name in found.__all__:
        value = getattr(found, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert value.__doc__, f"{module}.{name} has no docstring"


@pytest.mark.parametrize("module", EXPORTS)
def test_public_methods_have_docstrings_or_a_contract_that_has(module: str) -> None:
    found = importlib.import_module(module)
    silent = [
        f"{name}.{method}"
        for name in found.__all__
        if inspect.isclass(cls := getattr(found, name)) and not issubclass(cls, BaseException)
        for method, function in vars(cls).items()
        if inspect.isfunction(function) and not method.startswith("_") and not inspect.getdoc(getattr(cls, method))
    ]
    assert silent == []


HEAVY = [
    "asyncio",
    "numpy",
    "msgspec",
    "cloudpickle",
    "rich",
    "click",
    "aiohttp",
    "sqlite3",
    "pyarrow",
    "ray",
    "onnxruntime",
    "tokenizers",
]


@pytest.mark.parametrize("module", ["sage", "sage.flow", "sage.runtime", "sage.connectors"])
def test_importing_is_light(module: str) -> None:
    program = f"import {module}, sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_a_small_run_stays_light() -> None:
    """Not even a run takes what it does not need."""
    program = """
import sys, sage
from sage.connectors import Items
pipeline = sage.Pipeline("light")
pipeline.read(Items(range(10))).map(str).key_by(len).count().collect()
sage.run(pipeline)
print(*[name for name in "asyncio numpy rich click aiohttp sqlite3 pyarrow ray".split() if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
