"""The gateway: one OpenAI-compatible server in front of all endpoints, shared fairly.

::

    gateway.py   Gateway: the server on a thread of this process; what `sage gateway` runs
    config.py    GatewayConfig: endpoints, keys, limits; read from TOML
    server.py    the HTTP server: routes, who may, from a request to its answer. Needs aiohttp
    requests.py  what is looked at in a request's body, and its limits; everything else passes through untouched
    relay.py     a stream of events passed on as bytes: finds the usage, and hides it from who did not ask
    faults.py    what went wrong -> an error in OpenAI's form; no client's mistake is a 5xx
    figures.py   what /metrics shows
    exchange.py  one request that is being answered
    books.py     the ledger seen from the event loop; ledger.py: tokens by key, job, step and model, in SQLite

Which request is sent when, and where, is decided by `sage.llm.pool`. Needs the extra ``llm`` (aiohttp).
"""

from sage.gateway.config import EndpointConfig, GatewayConfig, KeyConfig, load_config, new_key
from sage.gateway.gateway import Gateway
from sage.gateway.ledger import Ledger, Used

__all__ = ["EndpointConfig", "Gateway", "GatewayConfig", "KeyConfig", "Ledger", "Used", "load_config", "new_key"]
