"""Queues across machines: a server lets other processes reach queues of its own; a link carries all queues between two.

::

    keys.py        the one secret, and what is derived from it
    transport.py   what carries messages: a contract
    zeromq.py      over TCP, authenticated and encrypted
    stream.py      messages arrive once and in order, whatever the transport does. Pure
    messages.py    what is said
    link.py        the client's side: one for each process and server, shared by all queues between them
    producing.py       places reserved ahead
    sending.py         items gathered, and sent
    consuming.py       items demanded ahead
    pace.py            how far ahead
    queue.py           the handle
    server.py      the owner's side
    service.py         one queue of it
    settling.py            clients are asked for what they hold
    taking.py              producers: places are granted, frames are put
    feeding.py             consumers: items are sent
    ports.py               a client's hold on it

This file imports nothing: messages need msgspec, and the sockets pyzmq. The owner makes a queue and serves it::

    from sage.queues.remote.server import QueueServer

    server = QueueServer(key)                      # listens on 127.0.0.1, at a free port
    server.serve("numbers", LocalQueue(1_000))     # any queue that is `Served` (serving.py)
    server.address                                 # ("127.0.0.1", 40123)
    server.close()                                 # clients get QueueBroken

Somebody else, who knows the address and the key, uses it::

    from sage.queues.remote.link import link_to
    from sage.queues.remote.queue import RemoteQueue

    link = link_to(address, key)                   # the link of this process to that server, perhaps a new one
    queue = RemoteQueue(link, "numbers")           # the whole contract of `Queue`
    queue.put(1)
    queue.detach()                                 # the last one closes the link

Another transport than TCP: ``QueueServer(key, listen=make_listener)`` and ``pooled(identity, lambda: Link(connect,
place))``, with a `Listener` and a `Connection` as `transport.py` describes them.
"""
