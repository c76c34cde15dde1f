"""The engines that pipelines are tested on. Each test of an engine runs on all of them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

import sage
from patience import DEADLINE_S
from sage.connectors import Items


class LocalEngine:
    """Runs pipelines in this process."""

    name = "local"
    processes = 1
    """In how many the steps run."""

    def start(self, pipeline: sage.Pipeline, **options: Any) -> sage.Job:
        return sage.start(pipeline, self.options(**options))

    def options(self, **options: Any) -> sage.RunOptions:
        return sage.RunOptions(processes=self.processes, **options)

    def run(self, pipeline: sage.Pipeline, **options: Any) -> sage.RunResult:
        """The result, also of a run that failed; whatever happened, its account balances."""
        result = self.start(pipeline, **options).wait(DEADLINE_S)
        assert result.account.missing == 0, result.account
        if result.status in (sage.Status.SUCCEEDED, sage.Status.SUCCEEDED_WITH_DEAD_LETTERS):
            assert result.account.unfinished == 0, result.account
        return result

    def over(self, items: Any, build: Callable[[sage.Stream], sage.Stream | None], **options: Any) -> sage.RunResult:
        """Run what `build` makes of a stream of `items`; the stream that it returns, if any, is collected."""
        pipeline = sage.Pipeline("test")
        stream = build(pipeline.read(Items(items)))
        if stream is not None:
            stream.collect()
        return self.run(pipeline, **options)


class ProcessEngine(LocalEngine):
    """Runs what keeps a processor busy in two more processes."""

    name = "processes"
    processes = 2


class RayEngine(LocalEngine):
    """Runs it in two more processes, each on a node of its own of the cluster that this process is connected to."""

    name = "ray"
    processes = 2

    def options(self, **options: Any) -> sage.RunOptions:
        return sage.RunOptions(engine="ray", **options)


Engine: TypeAlias = LocalEngine


def once(*values: Any) -> list[Any]:
    """Parameters that say the same on every engine: they are for one of them, unless more is asked for."""
    return [pytest.param(value, marks=pytest.mark.once) for value in values]
