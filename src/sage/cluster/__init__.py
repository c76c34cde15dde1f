"""Ray clusters: started, found, joined and ended. Nothing here knows what a pipeline is.

::

    cluster.py    Cluster, Node: what a cluster is, as plain data
    plan.py       what is to be started, and whether this machine can carry it
    private.py    a cluster of one's own, which ends with the block
    keeping.py    the keeper of a cluster, seen by who started it; keeper.py  the process itself
    ray_node.py   one node of Ray; sessions.py  its processes, and their end
    named.py      those with a name, which outlive the terminal
    join.py       the way to one that somebody else started; probe.py  one question to it, with a deadline
    driver.py     this process as a driver
"""

from sage.cluster.cluster import Cluster, Node
from sage.cluster.driver import connect
from sage.cluster.join import join
from sage.cluster.private import private

__all__ = ["Cluster", "Node", "connect", "join", "private"]
