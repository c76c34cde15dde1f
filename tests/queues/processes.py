"""Other processes that have a queue open."""

import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Self

from sage.queues import QueueDescriptor

_PROLOGUE = """
import json, sys
from sage.queues import *
from sage.queues.descriptor import QueueDescriptor
descriptor = QueueDescriptor.from_json(sys.argv[1])
def say(text):
    print(text, flush=True)
def hear():
    return sys.stdin.readline().strip()
"""


class Other:
    """A process that runs `program`, with `descriptor`, `say` and `hear` at hand. It is killed at the end."""

    def __init__(self, descriptor: QueueDescriptor, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROLOGUE + program, descriptor.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        print(text, file=self.process.stdin, flush=True)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)
        if number == signal.SIGSTOP:
            os.waitpid(self.process.pid, os.WUNTRACED)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
