"""How a pipeline is described, checked and compiled. Nothing in this folder runs anything.

::

    pipeline.py   Pipeline, Stream: what the user writes
    step.py       Step and its options: one described operation
    operator.py   the contract of operators; admission.py: of those whose calls wait for their turn
    source.py     the contract of sources
    sink.py       the contract of sinks
    shipping.py   operators as bytes, and which attribute cannot be shipped
    check.py      every mistake that can be found before running
    callables.py  what can be known of an operator without calling it
    options.py    the options of each kind of step, and their values
    topology.py   steps behind those that they take their input from
    compile.py    fusion into tasks
    graph.py      the ExecutionGraph that engines run
"""

from sage.flow.compile import compile_pipeline
from sage.flow.graph import Edge, ExecutionGraph, Mode, StepPlan, TaskPlan
from sage.flow.operator import Operator, OperatorContext
from sage.flow.pipeline import Branches, KeyedStream, Pipeline, Stream
from sage.flow.sink import Rejected, Sink, SinkContext, Writer
from sage.flow.source import Chunk, Fault, Reader, Source
from sage.flow.step import Input, Kind, Reduction, Step, StepOptions

__all__ = [
    "Branches",
    "Chunk",
    "Edge",
    "ExecutionGraph",
    "Fault",
    "Input",
    "KeyedStream",
    "Kind",
    "Mode",
    "Operator",
    "OperatorContext",
    "Pipeline",
    "Reader",
    "Reduction",
    "Rejected",
    "Sink",
    "SinkContext",
    "Source",
    "Step",
    "StepOptions",
    "StepPlan",
    "Stream",
    "TaskPlan",
    "Writer",
    "compile_pipeline",
]
