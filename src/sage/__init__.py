"""SAGE runs LLM pipelines as dataflow, written in plain Python.

The layout of the house; each layer imports only from those above it::

    errors, record, codec, clock, metrics, settings, processes
    flow/         what a pipeline is;  queues/  how data moves;  scheduling/  who runs where;  cluster/  Ray clusters
    connectors/   sources and sinks;  llm/  endpoints;  rag/  retrieval-augmented generation
    runtime/      what makes a pipeline run
    jobs/         many runs at once;  gateway/  the server in front of endpoints;  simulation/  clusters in virtual time
    bench/        experiments
    cli/          the command line;  testing/  conformance checks for your own sources, sinks, queues and schedulers
"""

from sage.errors import (
    EndpointBusy,
    EndpointError,
    MissingDependency,
    PipelineError,
    RecordError,
    SageError,
    SinkError,
    SourceError,
)
from sage.flow import Operator, OperatorContext, Pipeline, Sink, Source, Stream, compile_pipeline
from sage.runtime import Account, Job, JobSnapshot, RunOptions, RunResult, Status, run, start
from sage.version import __version__

__all__ = [
    "Account",
    "EndpointBusy",
    "EndpointError",
    "Job",
    "JobSnapshot",
    "MissingDependency",
    "Operator",
    "OperatorContext",
    "Pipeline",
    "PipelineError",
    "RecordError",
    "RunOptions",
    "RunResult",
    "SageError",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "Status",
    "Stream",
    "__version__",
    "compile_pipeline",
    "run",
    "start",
]
