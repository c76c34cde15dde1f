"""``python -m sage.cli.job_gateway FOLDER``: the gateway before the endpoints that jobs share. Their supervisors start
it, with the folder of a job as the current one: its settings say which endpoints."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from sage import settings
from sage.cli.limits import allow_open_files, forbid_core_dumps
from sage.gateway import EndpointConfig, Gateway, GatewayConfig
from sage.jobs.endpoints import GatewayFolder
from sage.jobs.folder import read_json, write_json
from sage.processes import this_process
from sage.settings import Settings

MAX_WAIT_S = 50.0
"""Less than clients wait for the first text of an answer."""


def main(folder: str) -> None:
    """Serve the endpoints of the settings until no job and no manager uses FOLDER any more."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a supervisor had blocked what it waits for
    if os.fork():
        os._exit(0)  # what a job starts ends with it; this does not
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    allow_open_files()
    forbid_core_dumps()
    files = GatewayFolder(Path(folder))
    found = settings.load()
    port = urlsplit((read_json(files.note) or {}).get("url", "")).port or 0
    with Gateway(_config(found, files, port), found.data_dir / "usage.sqlite") as running:
        note = {"process": asdict(this_process()), "url": running.url, "folder": os.getcwd()}
        write_json(files.note, note)
        os.write(1, json.dumps(note).encode() + b"\n")
        _be_silent()
        fd = os.open(files.path.parent / "users", os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)  # nobody is left, and whoever comes waits until this process is gone
        for key in files.keys.iterdir():  # of jobs whose supervisors were killed
            key.unlink(missing_ok=True)


def _config(found: Settings, files: GatewayFolder, port: int) -> GatewayConfig:
    key_file = None if found.llm_key is None else _in_memory(found.llm_key.reveal())
    endpoints = tuple(EndpointConfig(url, key_file=key_file) for url in found.llm_urls)
    return GatewayConfig(
        endpoint=endpoints, port=port, max_wait_s=MAX_WAIT_S, timeout_s=found.llm_timeout_s,
        keys_folder=str(files.keys), batch_bytes=0,  # those there are the user's own gateway's
    )  # fmt: skip


def _in_memory(text: str) -> str:
    """A file that only this process can see, and that ends with it."""
    fd = os.memfd_create("key")
    os.write(fd, text.encode())
    return f"/proc/self/fd/{fd}"


def _be_silent() -> None:
    """Whoever started this waits for one line, and for the end of what it reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    main(sys.argv[1])
