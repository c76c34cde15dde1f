"""The experiment suite: figures that can be believed, results that survive, and bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import sub
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.bench import EXPERIMENTS, Case, Experiment, Load, Options, Run, executor_for, publish, run_experiment
from sage.bench.engine import EngineCluster
from sage.bench.experiments import primes
from sage.bench.figures import check_rows, figures_of
from sage.bench.options import with_file
from sage.bench.results import Results
from sage.bench.statistics import estimate, p_value, percentile
from sage.bench.texts import shown, summary, table
from sage.bench.validation import Agreement, validate
from sage.bench.virtual import VirtualCluster
from sage.errors import ClusterError, InternalError, SageError, StorageError, UsageError

SMALL = Options(tasks=40, repeat=2, nodes=(1, 2), pipeline="compute")
CASE = Case("small", 1, nodes=2, slots=2, loads=(Load("compute", "compute", 40),))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_an_estimate_lies_in_its_interval(values: list[float]) -> None:
    found = estimate(values)
    assert found == estimate(values)
    if len(values) == 1:
        assert (found.median, found.low, found.high) == (values[0], None, None)
    else:
        assert found.low is not None
        assert found.high is not None
        assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_what_differs_is_told_from_what_does_not() -> None:
    assert p_value([10, 11, 12, 10], [20, 21, 22, 20]) == pytest.approx(2 / 70)
    same = p_value([10, 12, 11, 13], [11, 12, 10, 13])
    assert same is not None
    assert same > 0.5
    assert p_value([1, 2, 3], [7, 8, 9]) is None  # chance alone does that in one of ten
    assert p_value([], [1]) is None
    many = [float(value) for value in range(20)]
    drawn = p_value(many, [value + 30 for value in many])
    assert drawn is not None
    assert drawn < 0.001


def test_percentiles_are_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.99) == 7


def test_no_figure_of_a_run_that_lost_a_record() -> None:
    run = VirtualCluster().run(CASE, 0)
    assert figures_of(CASE, run)["throughput_per_s"] > 0
    run.rows.index[0] = run.rows.index[1]
    with pytest.raises(InternalError, match="E902 records were lost, so no figure of this run is shown"):
        figures_of(CASE, run)
    with pytest.raises(InternalError, match="E902"):
        check_rows(replace(CASE, loads=(Load("compute", "compute", 41),)), VirtualCluster().run(CASE, 0).rows)


def test_records_that_come_home_in_one_heap_are_not_quick() -> None:
    run = VirtualCluster().run(CASE, 0)
    last_s = run.rows.ended_s[-1]
    for row, ended_s in enumerate(run.rows.ended_s):
        run.rows.queueing_s[row] += last_s - ended_s
        run.rows.ended_s[row] = last_s
    assert figures_of(CASE, run)["throughput_per_s"] <= 40 / last_s / 0.9 * 1.001


def test_parts_that_do_not_add_up_are_refused() -> None:
    rows = VirtualCluster().run(CASE, 0).rows
    rows.queueing_s[3] += 1.0
    with pytest.raises(InternalError, match="s in parts"):
        check_rows(CASE, rows)


def test_an_experiment_leaves_everything_behind(tmp_path: Path) -> None:
    folder = tmp_path / "scaling"
    before = run_experiment(EXPERIMENTS["scaling"], VirtualCluster(), SMALL, tmp_path)
    (folder / "metrics.json").write_text(json.dumps(before.to_dict()))
    publish(run_experiment(EXPERIMENTS["scaling"], VirtualCluster(), SMALL, tmp_path), tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["schema"] == 1
    assert metrics["cluster"] == "virtual time, simulated endpoint"
    assert [case["name"] for case in metrics["cases"]] == ["compute 1", "compute 2"]
    assert len(metrics["cases"][0]["figures"]["throughput_per_s"]["values"]) == 2
    assert len(list((folder / "runs").glob("*.parquet"))) == 4
    assert "virtual time, simulated endpoint" in (folder / "summary.txt").read_text()
    compared = (folder / "comparison.txt").read_text()
    assert "published" in compared
    assert "Beside the last run" in compared
    assert compared.count("Too few repeats for a test of significance") == 2
    assert "\\toprule" in (folder / "tables.tex").read_text()
    assert (folder / "throughput.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "throughput.svg").read_text()
    html = (folder / "report.html").read_text()
    assert "data:image/png;base64," in html
    assert "http" not in html.replace("http-equiv", "")
    assert not list(folder.rglob(".*"))


class Interrupted:
    """A cluster that Ctrl-C befalls after some runs."""

    where = label = "interrupted"

    def __init__(self, runs: int) -> None:
        self._left = runs
        self._cluster = VirtualCluster()

    def check(self, case: Case) -> None:
        self._cluster.check(case)

    def run(self, case: Case, seed: int) -> Run:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._cluster.run(case, seed)

    def close(self) -> None:
        self._cluster.close()


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    scaling = EXPERIMENTS["scaling"]
    with pytest.raises(KeyboardInterrupt):
        run_experiment(scaling, Interrupted(3), SMALL, tmp_path)
    assert len(list((tmp_path / "scaling" / "runs").glob("*.json"))) == 3
    report = run_experiment(scaling, Interrupted(1), SMALL, tmp_path, resume=True)
    assert [len(figures["p99_s"].values) for figures in report.figures.values()] == [2, 2]


def test_a_figure_that_some_repeats_lack_is_estimated_from_the_others(tmp_path: Path) -> None:
    def measured(case: Case, executor: object, seed: int) -> tuple[dict[str, float], None]:
        return {"p99_s": 1.0 + seed} | ({"early": 2.0} if seed == 0 else {"late": 3.0}), None

    experiment = replace(EXPERIMENTS["scaling"], measure=measured, derive=None)
    report = run_experiment(experiment, VirtualCluster(), SMALL, tmp_path)
    for figures in report.figures.values():
        assert {name: each.values for name, each in figures.items()} == {
            "p99_s": (1.0, 2.0), "early": (2.0,), "late": (3.0,),
        }  # fmt: skip


def test_results_of_others_are_not_mixed_with_these(tmp_path: Path) -> None:
    scaling = EXPERIMENTS["scaling"]
    run_experiment(scaling, VirtualCluster(), SMALL, tmp_path)
    with pytest.raises(UsageError, match=r"E150 .*seed=0"):
        run_experiment(scaling, VirtualCluster(), replace(SMALL, seed=9), tmp_path, resume=True)
    options = tmp_path / "scaling" / "options.json"
    options.write_text(options.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(UsageError, match=r"E150 .*got SAGE .*, schema 99\. Try: without --resume"):
        run_experiment(scaling, VirtualCluster(), SMALL, tmp_path, resume=True)
    options.write_text("{half")
    with pytest.raises(StorageError, match="E682"):
        run_experiment(scaling, VirtualCluster(), SMALL, tmp_path, resume=True)


def test_a_full_disk_is_told_and_what_was_finished_stays(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    results.begin(SMALL, [CASE], resume=False)
    results.keep(CASE, 0, {"p99_s": 1.0}, None)

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"E681 .*No space left on device.*--resume"):
        results.make("metrics.json", full)
    assert not (tmp_path / "results" / "metrics.json").exists()
    assert results.finished(CASE, 0) == {"p99_s": 1.0}
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"E68[12]"):
        Results(tmp_path / "file" / "results").begin(SMALL, [CASE], resume=False)


def test_one_repeat_has_no_interval(tmp_path: Path) -> None:
    report = run_experiment(EXPERIMENTS["scaling"], VirtualCluster(), replace(SMALL, repeat=1), tmp_path)
    text = summary(report)
    assert "One repeat: nothing is known of the spread." in text
    assert "+-" not in text


@pytest.mark.parametrize("name", [name for name, each in EXPERIMENTS.items() if each.on_clusters and not each.computes])
def test_every_experiment_runs_in_virtual_time(name: str, tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    report = run_experiment(experiment, VirtualCluster(), Options(tasks=30, repeat=1), tmp_path)
    assert all(any(column.figure in figures for figures in report.figures.values()) for column in experiment.columns)
    assert all(figures["throughput_per_s"].median > 0 for figures in report.figures.values())
    latex = table(report)
    rows = [line for line in latex.splitlines() if line.endswith("\\\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(shown(report))}
    assert len(rows) == 1 + len(report.cases)
    assert latex.count("{") == latex.count("}")
    assert not re.search(r"(?<!\\)[_#%]", latex)
    assert "warm-up" in summary(report)


def test_a_real_engine_runs_the_same_cases(tmp_path: Path) -> None:
    cluster = EngineCluster("local")
    run = cluster.run(replace(CASE, loads=(Load("compute", "compute", 24),)), 0)
    assert len(run.rows) == 24
    assert set(run.rows.node) == {0, 1}
    asked = cluster.run(Case("rag", 1, nodes=1, slots=4, loads=(Load("rag", "rag", 8),)), 0)
    assert min(asked.rows.execution_s) > 0.1
    assert asked.figures["ideal_per_s"] > 0
    check_rows(Case("rag", 1, loads=(Load("rag", "rag", 8),)), asked.rows)


def test_real_runs_are_scheduled_as_the_case_says() -> None:
    case = Case("compute", 1, nodes=2, slots=1, scheduler="nobody's", loads=(Load("compute", "compute", 2),))
    with pytest.raises(SageError, match="E246"):
        EngineCluster("local").run(case, 0)


def test_no_more_are_on_their_way_than_a_load_says() -> None:
    closed = EngineCluster("local").run(replace(CASE, nodes=1, loads=(Load("mixed", "mixed", 20, in_flight=3),)), 0)
    events = sorted([(at, 1) for at in closed.rows.intended_s] + [(at, -1) for at in closed.rows.ended_s])
    assert max(accumulate(step for _, step in events)) <= 3


def test_records_come_when_they_are_due() -> None:
    load = Load("mixed", "mixed", 20, rate_per_s=200.0)
    case = replace(CASE, nodes=1, loads=(load,))
    real, virtual = (each.run(case, 0).rows for each in (EngineCluster("local"), VirtualCluster()))
    gaps = [list(map(sub, times[1:], times)) for times in (sorted(real.intended_s), sorted(virtual.intended_s))]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)
    figures = figures_of(case, Run(real))
    assert figures["p50_s"] >= 0.01


def test_virtual_time_is_compared_figure_by_figure() -> None:
    found = list(validate(VirtualCluster(), (1, 2), turns=4, repeats=1))
    assert [(each.nodes, each.figure) for each in found] == [
        (nodes, figure) for nodes in (1, 2) for figure in ("throughput_per_s", "p99_s")
    ]
    assert all(each.holds and each.difference == 0 for each in found)
    assert not Agreement(1, "p99_s", 1.0, 1.2).holds


def test_primes_and_factors_are_verified() -> None:
    case = Case("two", 2, nodes=1, slots=2, settings={"kind": "factor", "tasks": 6, "workers": 2})
    figures, _ = primes.measure(case, EngineCluster("local"), 0)
    assert figures["error_rate"] == 0
    number, p, q = primes.factor(0, 1)
    assert p * q == number
    primes._check(case, 1, [primes.prime(0, 0)])
    with pytest.raises(InternalError, match="E902 wrong or lost primes"):
        primes._check(case, 1, [(15, 15, 1)])
    with pytest.raises(InternalError, match="E902 wrong or lost primes"):
        primes._check(case, 2, [(15, 3, 5)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": (0,)}, "at --nodes"),
        ({"nodes": ()}, "at --nodes"),
        ({"tasks": 0}, "at --tasks"),
        ({"repeat": 0}, "at --repeat"),
        ({"repeat": 5000}, "at most 1000"),
        ({"pipeline": "nope"}, "no such pipeline"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=f"E104 .*{message}"):
        replace(SMALL, **options)  # type: ignore[arg-type]


def test_a_config_file_says_the_same_as_options(tmp_path: Path) -> None:
    read = with_file(Options(), tmp_path, {"tasks": 40, "repeat": 2, "nodes": [1, 2], "pipeline": "compute"})
    assert read == SMALL
    for content, message in (({"task": 1}, "no such option.*got task"), ({"tasks": "many"}, "tasks: got many")):
        with pytest.raises(UsageError, match=message):
            with_file(Options(), tmp_path, content)


def refused(experiment: Experiment, cluster: str, options: Options, folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        run_experiment(experiment, executor_for(cluster), options, folder)
    assert not list(folder.iterdir())
    return str(caught.value)


def test_a_cluster_that_cannot_is_told_before_anything_starts(tmp_path: Path) -> None:
    scaling: Sequence[tuple[str, Options, str]] = [
        ("local", replace(SMALL, nodes=(1, 100)), "64 are the most"),
        ("local", replace(SMALL, pipeline="adaptive_rag"), "this cluster cannot run the case"),
        ("virtual", replace(SMALL, nodes=(200_000,)), "bad number of nodes"),
    ]
    for cluster, options, message in scaling:
        assert message in refused(EXPERIMENTS["scaling"], cluster, options, tmp_path)
    with pytest.raises(ClusterError, match="E836 no such cluster is up"):
        executor_for("nowhere")
    assert "got 3 jobs" in refused(EXPERIMENTS["isolation"], "local", SMALL, tmp_path)
