"""Schedulers: where a task is placed, who gets the next piece of work, and what goes first.

::

    view.py             what a scheduler sees: nodes, replicas, waiting work. Plain data, gathered by others
    scheduler.py        Scheduler, the contract; Decision; the registry of names
    fit.py              which nodes can carry a task
    fifo.py             the first that is free, in order of arrival
    round_robin.py      each in turn
    load_aware.py       the least loaded (spread), or the fullest that has room (pack)
    priority.py         bands with ageing
    adaptive.py         the default: late binding, by expected time to finish
    learning.py         what a record costs and how quick a node is, from what was observed
    group.py            candidates for work, kept up by what they were given and have done
    limiter.py          how many calls something should have in flight, found by feedback
    rounds.py           what that measures; elasticity.py: what one more call in flight brings
    sharing.py          what there is for all jobs, by weight
    queued.py           how many, at a server that lets them wait and shares itself out

Everything here is pure: no clock, no sleep, no I/O. Schedulers keep no state between calls. Time comes in.
"""

from sage.errors import SchedulingError
from sage.scheduling.adaptive import Adaptive
from sage.scheduling.fifo import Fifo
from sage.scheduling.group import Group
from sage.scheduling.learning import Costs, Speeds
from sage.scheduling.load_aware import LoadAwarePack, LoadAwareSpread
from sage.scheduling.priority import Priority
from sage.scheduling.round_robin import RoundRobin
from sage.scheduling.scheduler import DEFAULT, Decision, Scheduler, names, register, scheduler_named
from sage.scheduling.view import Cluster, Node, Replica, Task, Work

__all__ = [
    "DEFAULT",
    "Scheduler",
    "Decision",
    "register",
    "scheduler_named",
    "names",
    "Cluster",
    "Node",
    "Task",
    "Replica",
    "Work",
    "Fifo",
    "RoundRobin",
    "LoadAwareSpread",
    "LoadAwarePack",
    "Priority",
    "Adaptive",
    "Group",
    "Costs",
    "Speeds",
    "SchedulingError",
]
