"""The experiment suite: what SAGE does, measured, compared and drawn.

::

    case.py          Case, Load: one point of an experiment, as plain data
    options.py       Options: what a user says of a whole experiment
    experiment.py    Experiment: a declaration of cases, figures and plots
    experiments/     the experiments
    executor.py      Executor, the one seam to clusters: clusters.py: by name
    virtual.py       in virtual time;  engine.py  on processes;  emulated.py, joined.py  on Ray
    work.py          what records do in a real run;  usage.py  what it takes of the machine
    figures.py       rows of a run -> figures; refuses runs in which a record was lost
    statistics.py    medians, confidence, significance
    suite.py         runs an experiment, repeat by repeat
    results.py       the folder of results, from which an interrupted experiment goes on
    texts.py, plots.py, page.py, publish.py   what is made of it
"""

from sage.bench.case import Case, Load
from sage.bench.clusters import executor_for, executor_of_many
from sage.bench.executor import Executor, Run
from sage.bench.experiment import Experiment
from sage.bench.experiments import EXPERIMENTS
from sage.bench.options import Options
from sage.bench.page import Section
from sage.bench.publish import publish, publish_all
from sage.bench.suite import Report, run_experiment

__all__ = [
    "EXPERIMENTS", "Case", "Executor", "Experiment", "Load", "Options", "Report", "Run", "Section", "executor_for",
    "executor_of_many", "publish", "publish_all", "run_experiment",
]  # fmt: skip
