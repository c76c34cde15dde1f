"""The engine: hosts, workers, stages, connections, and the dispatcher that drives them.

::

    run.py           run, start: the ways in
    job.py           one run: driver of the dispatcher, the final account;  outcome.py  what comes of it
    dispatcher.py    which worker may go, when to abort, when it is over (no I/O)
    crew.py          the hosts of a run: here one
    assembly.py      ExecutionGraph -> inboxes, stages, connections, workers of one host
    host.py          a process in which workers run
    worker.py        threads; asynchronous.py  async steps, on the loop of eventloop.py
    stage.py         a step at work; reading, calls, flattening, keys, routes, terminals: the kinds of it
    fusion.py        runs of steps as one generated loop;  loops.py  the loop
    failures.py      retry, park, replace, bury, or end the job; retry.py  when (pure)
    deadline.py      time limits for plain functions
    load.py          how full the way to a task is; what each host does; replicas.py  how many of a blocking step work
    routing.py       connections; inbox.py  where they end; order.py  keeping the order of keys
    ledger.py        what is finished; account.py  the proof; deadletters.py  what failed
    stats.py         figures; control.py  stopping; context.py  what all of it shares

Where a run has several hosts::

    placement.py     which host runs what (pure)
    fleet.py         the crew with other hosts in it; member.py  one of them, seen by the driver
    engine.py        what engines differ in; processes.py  hosts that are processes of this machine
    ray.py           hosts that are actors on a cluster: ray_cluster.py, ray_placement.py, ray_project.py before a run,
                     ray_host.py the actor, ray_link.py what lies between, ray_door.py on one machine
    hosted.py        such a host, as it sees itself; messages.py  what it and the driver say to one another;
                     parcel.py  what it is sent first
    crossing.py      the wiring between hosts; edges.py  the two ends of a queue
    router.py        which host gets the next records of a task; routed.py  both ends of such an edge
    reports.py       what a host tells of its records; books.py  how the driver enters that
    suspects.py      which record killed its host; watched.py, watched_async.py  how that is seen
"""

from sage.runtime.account import Account
from sage.runtime.job import Job
from sage.runtime.outcome import JobSnapshot, RunOptions, RunResult, Status
from sage.runtime.run import run, start
from sage.runtime.stats import StepSnapshot

__all__ = ["Account", "Job", "JobSnapshot", "RunOptions", "RunResult", "Status", "StepSnapshot", "run", "start"]
