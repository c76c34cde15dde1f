"""The gateway: what it costs, and whom it serves. No GPU: the endpoints are simulated, each in a process of its own.

::

    __main__.py    python -m benchmarks.gateway NAME...
    processes.py   endpoints and gateways as processes, and what these use
    clients.py     what several of these ask with
    streams.py     streams as their client sees them
    steady.py      an endpoint whose steps take the same time whatever is in them
    noop.py        an endpoint that answers at once
    splice.py      a proxy that copies bytes and does nothing else
    tax.py         tax and crowd: first token and throughput, direct, through such a proxy and through the gateway
    rate.py        requests a second that cost the endpoint nothing, against LiteLLM's proxy
    sharing.py     fairness between tenants, priority
    overload.py    ten times the capacity, and 5,000 idle connections
    hostile.py     256 MB, and requests that ask for too much
    prefix.py      two endpoints that cache prefixes, with and without prefix affinity
"""
