"""A vLLM-compatible server without a GPU: a model of its time, and an HTTP server over it.

::

    profile.py      Profile: what a step costs, from the figures of a GPU and a model
    blocks.py       KVBlocks: the KV cache as a count of blocks, with prefix caching
    engine.py       Engine: continuous batching in virtual or real time; no clock, no I/O
    sequence.py     what goes into it and what comes out
    clients.py      clients of it in virtual time, each with a limit of its own
    text.py         tokens of prompts, and words of answers
    schema.py       a value that fits a JSON schema
    wire.py         requests -> values, with their limits; refusals
    answers.py      what is answered, known before its first token is due; its bytes
    generation.py   requests -> prompts and answers
    faults.py       misbehaviour on command
    exposition.py   figures under vLLM's names
    realtime.py     Driver: the engine under the clock of an event loop
    delivery.py     who waits for tokens
    misbehaving.py  answers that do not come as they should
    serving.py      requests that cost tokens, from body to answer
    server.py       Server: the routes, who may, its administration (these three need aiohttp)
    endpoint.py     SimulatedEndpoint: the server on a thread
"""

from sage.llm.simulated.endpoint import SimulatedEndpoint
from sage.llm.simulated.engine import Engine
from sage.llm.simulated.faults import Fault
from sage.llm.simulated.profile import PROFILES, Profile, profile_named
from sage.llm.simulated.sequence import EngineSnapshot, Request, Running, Step

__all__ = [
    "SimulatedEndpoint",
    "PROFILES", "Profile", "profile_named",
    "Engine", "EngineSnapshot", "Request", "Running", "Step",
    "Fault",
]  # fmt: skip
