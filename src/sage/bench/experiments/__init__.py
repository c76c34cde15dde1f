"""All experiments, by name."""

from sage.bench.experiment import Experiment
from sage.bench.experiments.admission import ADMISSION
from sage.bench.experiments.concurrency import CONCURRENCY
from sage.bench.experiments.isolation import ISOLATION
from sage.bench.experiments.load import LOAD
from sage.bench.experiments.primes import PRIMES
from sage.bench.experiments.queue import QUEUE, verify
from sage.bench.experiments.scaling import SCALING
from sage.bench.experiments.schedulers import SCHEDULERS

EXPERIMENTS: dict[str, Experiment] = {
    each.name: each for each in (SCALING, LOAD, SCHEDULERS, CONCURRENCY, ISOLATION, ADMISSION, QUEUE, PRIMES)
}
"""In the order in which ``all`` runs them."""

__all__ = ["EXPERIMENTS", "verify"]
