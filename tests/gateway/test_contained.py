"""The gateway as a process that is killed, or has little memory; and what holds keys leaves no image of itself."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from behind import CHAT, ask, chat
from test_batches import create, line, results, upload
from test_bounds import oversized

from conftest import Wait
from endpoints import MODEL as SCRIPTED
from endpoints import MisbehavingEndpoint
from sage.llm.simulated import SimulatedEndpoint

MEMORY_BYTES = 256 << 20


class Started:
    """A gateway in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url


@contextmanager
def started(endpoint: str) -> Iterator[Started]:
    Path("gateway.toml").write_text('usage_file = "usage.sqlite"\n')
    command = [sys.executable, "-m", "sage", "gateway", "--endpoint", endpoint, "--config", "gateway.toml"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Started(process, process.stdout.readline().strip().removesuffix("/v1"))
        finally:
            process.kill()


def test_a_batch_goes_on_after_kill_9_and_asks_again_only_what_was_in_flight(wait_until: Wait) -> None:
    count, answered = 12, 5
    content = b"\n".join(line(f"q{n}", chat(f"Question {n}") | {"model": SCRIPTED}) for n in range(count))

    def progress(gateway: Any, name: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(gateway, f"/v1/batches/{name}").json
        return found

    with MisbehavingEndpoint() as endpoint:
        endpoint.script(["json"] * answered + ["silence"] * count)
        with started(endpoint.url) as killed:
            name = create(killed, upload(killed, content).json["id"]).json["id"]
            wait_until(lambda: len(endpoint.requests) == count)
            wait_until(lambda: progress(killed, name)["request_counts"]["completed"] == answered)
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait()
        asked = [seen.body["messages"][0]["content"] for seen in endpoint.requests]
        endpoint.drop_script()
        with started(endpoint.url) as again:
            wait_until(lambda: progress(again, name)["status"] == "completed")
            found = results(again, progress(again, name)["output_file_id"])
        later = [seen.body["messages"][0]["content"] for seen in endpoint.requests[count:]]
    assert found.keys() == {f"q{n}" for n in range(count)}
    assert len(asked) == count
    assert len(later) == count - answered
    assert set(later) <= set(asked)


def test_what_asks_for_too_much_is_refused_in_little_memory() -> None:
    with SimulatedEndpoint("tiny") as endpoint, started(endpoint.url) as gateway:
        assert ask(gateway, CHAT, chat()).status == 200
        resource.prlimit(gateway.process.pid, resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        for path, body in oversized():
            assert ask(gateway, path, body).status in (400, 413)
        assert ask(gateway, CHAT, chat()).status == 200
        assert gateway.process.poll() is None


def test_a_run_and_its_hosts_leave_no_image_of_their_memory() -> None:
    Path("flow.py").write_text(
        "import os, resource, sage\n"
        "from sage.connectors import Items, JsonLines\n"
        "def core(_): return [os.getpid(), resource.getrlimit(resource.RLIMIT_CORE)[1]]\n"
        'p = sage.Pipeline("core")\n'
        'p.read(Items(range(8))).map(core, parallelism=2).write(JsonLines("out.jsonl"))\n'
    )
    ran = subprocess.run(
        [sys.executable, "-m", "sage", "run", "flow.py", "--processes", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(row) for row in Path("out.jsonl").read_text().splitlines()]
    assert len(found) == 8
    assert {most for _, most in found} <= {0, 1}
    assert os.getpid() not in {pid for pid, _ in found}
