"""The gateway: one OpenAI-compatible server in front of all endpoints, shared fairly.

::

    gateway.py       Gateway: the server on a thread of this process; what `sage gateway` runs
    config.py        GatewayConfig: endpoints, keys, tenants, limits; read from TOML
    server.py        the HTTP server: routes, who may, how it is. Needs aiohttp
    connection.py    what is no HTTP, and what is a defect, in OpenAI's form too
    serving.py       requests that cost tokens, from their body to the end of their answer
    exchange.py      one request that is being answered
    requests.py      what is looked at in a request's body, and its limits; everything else passes through untouched
    destinations.py  what a request must not say: where it goes
    relay.py         a stream of events passed on as bytes: finds the usage, and hides it from who did not ask
    batch.py         what a batch and its files are; batch_store.py: on disk; batch_runner.py: how they are worked off
    batch_journal.py  what has become of a batch's requests, on the disk before it counts
    batch_routes.py  /v1/files and /v1/batches
    callers.py       who a key belongs to, and what it opens
    allowance.py     rates and budgets of keys and tenants
    cache.py         answers that are given again
    faults.py        what went wrong -> an error in OpenAI's form; no client's mistake is a 5xx
    health.py        whether requests get through; figures.py: what /metrics shows
    books.py         the ledger seen from the event loop; ledger.py: tokens by key, job, step and model, in SQLite

Which request is sent when, and where, is decided by `sage.llm.pool`. Needs the
extra ``gateway`` (aiohttp, httptools, uvloop).
"""

from sage.gateway.config import EndpointConfig, GatewayConfig, KeyConfig, TenantConfig, load_config, new_key
from sage.gateway.gateway import Gateway
from sage.gateway.ledger import Ledger, Used

__all__ = [
    "EndpointConfig",
    "Gateway",
    "GatewayConfig",
    "KeyConfig",
    "Ledger",
    "TenantConfig",
    "Used",
    "load_config",
    "new_key",
]
