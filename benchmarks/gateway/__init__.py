"""The gateway: what it costs, and whom it serves. No GPU: the endpoints are simulated, each in a process of its own.

::

    __main__.py    python -m benchmarks.gateway NAME...
    processes.py   endpoints and gateways as processes, and what these use
    clients.py     streams as their client sees them
    steady.py      an endpoint whose steps take the same time whatever is in them
    noop.py        an endpoint that answers at once
    tax.py         time to first token and throughput, direct and through the gateway in turns
    rate.py        requests a second that cost the endpoint nothing, against LiteLLM's proxy
    sharing.py     fairness between tenants, priority
    overload.py    ten times the capacity, and 5,000 idle connections
    hostile.py     256 MB, and requests that ask for too much
    prefix.py      two endpoints that cache prefixes, with and without prefix affinity
"""
