"""The network laboratory: hosts that are machines of their own, on one machine, and links that are slow or cut.

::

    link.py         Link, Crossed: what a link does to packets, what it has carried
    namespaces.py   what the kernel does: namespaces, TUN devices, the end of processes
    host.py         Host: where programs run
    forwarder.py    the process that moves the packets, each at its time
    network.py      Network, Wire: the whole
    ray.py          RayCluster: a Ray cluster across it

Linux only, and root. Nothing else is needed: no ``ip``, no ``tc``; Ray for the last one.
"""

from sage.testing.network.host import Host
from sage.testing.network.link import Crossed, Link
from sage.testing.network.network import Network, Wire
from sage.testing.network.ray import RayCluster

__all__ = ["Crossed", "Host", "Link", "Network", "RayCluster", "Wire"]
