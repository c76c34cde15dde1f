"""How full buffers are, and what each host does: the view of a run."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sage
from engines import LocalEngine, ProcessEngine
from live import Gate
from patience import DEADLINE_S
from sage import Operator
from sage.connectors import Items
from sage.runtime.load import SAMPLE_S, LoadHistory

Wait = Callable[[Callable[[], object]], None]


@given(st.floats(-1, 1), st.floats(0, 1), st.integers(2, 100))
def test_the_trend_of_a_line_is_its_slope(slope: float, start: float, looks: int) -> None:
    history = LoadHistory()
    assert history.load(start).trend_per_s == 0
    for number in range(looks):
        at_s = number * 2 * SAMPLE_S
        history.see(at_s, start + slope * at_s)
        history.see(at_s + SAMPLE_S / 2, 99.0)  # so soon nobody looks again
    found = history.load(0.5)
    assert found.load == 0.5
    assert found.trend_per_s == pytest.approx(slope, abs=1e-6)


class Held(Operator):
    """Waits at a gate that the test opens."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __call__(self, record: int) -> int:
        self.gate.wait()
        return record


@pytest.mark.parametrize("engine", [LocalEngine(), ProcessEngine()], ids=lambda engine: engine.name)
def test_a_buffer_that_nobody_empties_is_full_and_every_host_is_seen(engine: LocalEngine, wait_until: Wait) -> None:
    gate = Gate()
    pipeline = sage.Pipeline("test")
    pipeline.read(Items(range(5000))).map(Held(gate), name="held", batch_size=2).collect()
    job = engine.start(pipeline)
    wait_until(lambda: any(step.load >= 0.9 for step in job.snapshot().steps if step.name == "held"))
    wait_until(lambda: sum(host.in_flight for host in job.snapshot().hosts) > 0)
    wait_until(lambda: all(host.memory_bytes > 1_000_000 for host in job.snapshot().hosts))
    hosts = job.snapshot().hosts
    assert len(hosts) == (1 if engine.processes == 1 else 1 + engine.processes)
    assert {host.attempt for host in hosts} == {1}
    gate.open()
    assert job.wait(DEADLINE_S).account.missing == 0


@pytest.mark.parametrize("engine", [LocalEngine(), ProcessEngine()], ids=lambda engine: engine.name)
def test_no_more_is_read_than_may_be_in_flight(engine: LocalEngine, wait_until: Wait) -> None:
    gate = Gate()
    pipeline = sage.Pipeline("test")
    pipeline.read(Items(range(400))).map(Held(gate), name="held", concurrency=8).collect()
    job = engine.start(pipeline, max_in_flight=5)
    wait_until(lambda: job.snapshot().account.read >= 5)
    assert job.snapshot().account.read == 5
    gate.open()
    assert job.wait(DEADLINE_S).account.written == 400
