"""Whether a scheduler keeps the contract of `sage.scheduling.scheduler`."""

from __future__ import annotations

import random
from dataclasses import replace
from math import isnan

from sage.errors import SchedulingError
from sage.scheduling import Cluster, Node, Replica, Scheduler, Task, Work

_ROUNDS = 300


def check_scheduler(scheduler: Scheduler, *, seed: int = 0) -> None:
    """Ask `scheduler` about random clusters, replicas and waiting work. Raises AssertionError if a promise is broken.

    Checked: every choice is one of those offered, a node that cannot carry a task never gets it, each candidate has a
    score, the same view gives the same decision, and free replicas do not leave work lying where all are equally quick.
    """
    chance = random.Random(seed)
    for _ in range(_ROUNDS):
        _check_place(scheduler, chance)
        _check_choose(scheduler, chance)
        _check_order(scheduler, chance)


def _check_place(scheduler: Scheduler, chance: random.Random) -> None:
    nodes = tuple(_node(number, chance) for number in range(chance.randrange(1, 8)))
    cluster = Cluster(nodes, placed=chance.randrange(100))
    task = Task("t", needs=chance.choice([{}, {"gpu": 1.0}]), labels=chance.choice([{}, {"zone": "a"}]))
    able = {node.name for node in nodes if _carries(node, task)}
    try:
        decision = scheduler.place(task, cluster)
    except SchedulingError:
        _demand(not able, f"place() refused a task that {able} could carry")
        return
    _demand(decision.choice in able, f"place() chose {decision.choice!r}, but only {able} can carry the task")
    _demand(decision == scheduler.place(task, cluster), "place() answers differently when asked again")
    _check_scores(decision.scores, len(nodes))


def _check_choose(scheduler: Scheduler, chance: random.Random) -> None:
    replicas = [_replica(number, chance) for number in range(chance.randrange(1, 8))]
    work = _work(chance)
    waiting_s = work.cost_s * chance.choice([1, 1, 5, 50])
    decision = scheduler.choose(work, replicas, waiting_s)
    choice = decision.choice
    _demand(choice is None or 0 <= choice < len(replicas), f"choose() chose {choice} of {len(replicas)}")
    _demand(decision == scheduler.choose(work, replicas, waiting_s), "choose() answers differently when asked again")
    _check_scores(decision.scores, len(replicas))
    alike = [replace(replica, speed=1.0) for replica in replicas]
    if any(replica.is_free for replica in alike):
        _demand(
            scheduler.choose(work, alike, waiting_s).choice is not None, "choose() let work wait, but some are free"
        )


def _check_order(scheduler: Scheduler, chance: random.Random) -> None:
    waiting = [_work(chance) for _ in range(chance.randrange(1, 8))]
    waiting.sort(key=lambda work: -work.waited_s)
    decision = scheduler.order(waiting)
    _demand(0 <= decision.choice < len(waiting), f"order() chose {decision.choice} of {len(waiting)}")
    _demand(decision == scheduler.order(waiting), "order() answers differently when asked again")
    _check_scores(decision.scores, len(waiting))
    same = [replace(work, band=0, job="", attained_s=0.0) for work in waiting]
    _demand(scheduler.order(same).choice == 0, "order() passes the first of those that differ in nothing but arrival")


def _check_scores(scores: object, count: int) -> None:
    found = list(scores)  # type: ignore[call-overload]
    _demand(len(found) == count and not any(map(isnan, found)), f"{count} candidates, but the scores are {found}")


def _carries(node: Node, task: Task) -> bool:
    has = all(node.free.get(name, 0) >= amount for name, amount in task.needs.items())
    return has and node.accepts and all(node.labels.get(name) == value for name, value in task.labels.items())


def _node(number: int, chance: random.Random) -> Node:
    return Node(
        f"n{number}", chance.choice([1, 4, 16]), used=chance.choice([0, 1, 4, 20]), backlog_s=chance.choice([0, 1, 9]),
        speed=chance.choice([0.5, 1, 4]), free=chance.choice([{}, {"gpu": 1.0}]),
        labels=chance.choice([{}, {"zone": "a"}]), accepts=chance.random() < 0.8,
    )  # fmt: skip


def _replica(number: int, chance: random.Random) -> Replica:
    slots, pieces = chance.choice([1, 2, 8]), chance.choice([0, 0, 1, 5, 30])
    running = min(slots, pieces)
    return Replica(
        f"n{number}", slots, running=running, queued=pieces - running, backlog_s=pieces * chance.random(),
        speed=chance.choice([0.5, 1, 4]), given=pieces + chance.randrange(9),
    )  # fmt: skip


def _work(chance: random.Random) -> Work:
    return Work(chance.choice([0.0, 0.01, 1, 20]), chance.choice([0, 0.5, 40, 400]), chance.choice([0, 0, 1, 3]))


def _demand(condition: bool, story: str) -> None:
    if not condition:
        raise AssertionError(story)
