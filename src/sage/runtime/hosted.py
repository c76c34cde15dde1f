"""A host away from home, as it sees itself: it runs the tasks that are placed on it, and tells the driver.

``python -m sage.runtime.hosted FD`` is such a host as a process of this machine; FD is its end of a socket pair.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from sage.errors import SageError
from sage.flow.shipping import unpack
from sage.processes import memory_bytes
from sage.queues import Queue
from sage.runtime.asking import Asking
from sage.runtime.assembly import Assembly, assemble
from sage.runtime.context import RuntimeContext
from sage.runtime.control import Aborted, Control
from sage.runtime.crossing import CrossingWiring
from sage.runtime.durable import Branch, Durability, FarBranch
from sage.runtime.edges import Item
from sage.runtime.host import Host, Roster
from sage.runtime.messages import (
    Answer,
    Close,
    Closed,
    Command,
    Failure,
    Figures,
    HostEnded,
    Link,
    Plan,
    Setup,
    SocketLink,
    TaskEnded,
    Trying,
    name_of,
)
from sage.runtime.placement import queues_at
from sage.runtime.reports import LettersOnTheWay, Reports
from sage.runtime.stage import figures_of
from sage.runtime.stats import StepStats
from sage.runtime.suspects import Try
from sage.runtime.watched import WatchedWiring
from sage.runtime.worker import Event, Opened

FIGURES_EVERY_S = 0.25
FIGURES_SHARE_S = 0.05
"""The same for each of many hosts: the driver reads what all of them tell."""
SILENT_AT_MOST_S = 2.0
"""Where nothing changes, the driver is told so often that the host lives."""
_PR_SET_PDEATHSIG = 1


class HostProgram:
    """Runs what the driver asks for, until the driver closes it or is gone."""

    def __init__(self, link: Link, setup: Setup) -> None:
        self._link = link
        self._number = setup.number
        self._plan = setup.plan
        self._control = Control()
        self._asking = Asking(self._number, self._send, self._control)
        self._host = Host()
        self._over = threading.Event()
        self._failed = False
        self._parts: Assembly | None = None
        self._durability: Durability | None = None

    def run(self) -> bool:
        """True if everything has ended; False if threads are left that do not."""
        self._send(Figures(self._number, {}, {}))  # from now on the driver expects to hear of it
        threading.Thread(target=self._tell_figures, name="sage-figures", daemon=True).start()
        try:
            self._set_up(unpack(*self._plan))
        except Exception as error:  # noqa: BLE001 -- the outermost edge: whatever it is, the run fails of it
            self._fail(error)
            self._receive_until_close()
            self._over.set()
            self._send(Closed(self._number, ()))
            return True
        self._reports.start()
        self._host.start(self._workers, self._tell)
        close = self._receive_until_close()
        if close is None:
            return False
        stuck = self._host.close(close.grace_s)
        self._over.set()
        self._reports.close()
        if self._durability is not None and not stuck:
            self._durability.close()
        self._send(self._figures())
        self._send(Closed(self._number, stuck))
        for queue in self._queues:
            queue.detach()
        return not stuck

    def _set_up(self, plan: Plan) -> None:
        opened = {
            task: [
                way.open()
                for way in queues_at(self._number, plan.graph, plan.graph.task_of(task), plan.placement, some)
            ]
            for task, some in plan.queues.items()
        }
        self._queues: list[Queue[Item]] = [queue for some in opened.values() for queue in some]
        self._hosts = plan.placement.count
        self._reports = Reports(self._number, self._send, self._hosts)
        ledger = self._reports.ledger_of(name_of(self._number), None)
        pipeline = plan.graph.pipeline
        letters = LettersOnTheWay(ledger, pipeline, plan.run_id, plan.clock)
        self._durability = None if plan.journal is None else self._open_journal(plan.journal)
        context = RuntimeContext(
            pipeline, plan.run_id, self._control, ledger, letters, plan.clock, append=False, durability=self._durability
        )
        parts = plan.graph, context, plan.placement, opened
        if plan.watch is None:
            self._wiring = CrossingWiring(
                *parts, number=self._number, reports=self._reports, book=None, done=self._reports.done
            )
        else:
            self._wiring = WatchedWiring(
                *parts, number=self._number, reports=self._reports, book=None, done=self._reports.done,
                watch=plan.watch, say=self._say,
            )  # fmt: skip
        self._parts = assemble(self._wiring, self._host)
        self._workers = self._parts.workers
        self._roster = Roster(self._workers)

    def _open_journal(self, journal: Branch | FarBranch) -> Durability:
        if isinstance(journal, FarBranch):
            from sage.runtime.durability.far import FarJournals  # as below

            name = f"{name_of(self._number)}-{os.getpid()}"
            return FarJournals(journal, name, self._asking.ask, self._asking.tell, self._journal_failed)
        from sage.runtime.durability.near import StepJournals  # SQLite, which other runs do not need

        reuse = None if journal.reuse is None else Path(journal.reuse)
        folder, failed = Path(journal.folder), self._journal_failed
        return StepJournals(folder, journal.epoch, failed, begun=journal.begun, reuse=reuse)

    def _say(self, worker: str, attempt: Try | None) -> None:
        with suppress(OSError):  # the driver is gone
            self._link.send(Trying(self._number, worker, attempt))
            if attempt is not None:
                self._link.flush()

    def _journal_failed(self, error: SageError) -> None:
        if not self._control.aborted.is_set():  # else it is no news
            self._fail(error)

    def _receive_until_close(self) -> Close | None:
        """Do what the driver says; None if it is gone."""
        while True:
            message = self._link.receive()
            if message is None or isinstance(message, Close):
                return message
            if isinstance(message, Answer):
                self._asking.take(message)
            elif message is Command.GO:
                self._host.go()
            elif message is Command.STOP:
                self._control.stop()
            elif message is Command.ABORT:
                self._control.abort()
                self._host.go()

    def _tell(self, event: Event) -> None:
        if isinstance(event, Opened):
            if self._roster.opened(event.worker):
                self._send(Opened(name_of(self._number)))
            return
        if event.error is not None and not isinstance(event.error, Aborted):
            self._fail(event.error)
        task, last = self._roster.ended(event.worker)
        if task is not None and event.error is None:
            self._send(TaskEnded(self._number, task))
        if last and not self._failed:
            self._send(HostEnded(self._number, None))

    def _fail(self, error: BaseException) -> None:
        """The driver ends the run then, and this host with it."""
        first, self._failed = not self._failed, True
        if first:
            self._send(HostEnded(self._number, Failure.of(error)))

    def _tell_figures(self) -> None:
        told: object = None
        told_s = 0.0
        every_s = FIGURES_EVERY_S
        while not self._over.wait(every_s):
            if self._parts is not None:
                every_s = max(FIGURES_EVERY_S, FIGURES_SHARE_S * self._hosts)
            steps, now_s = self._steps(), time.monotonic()
            news = [(part.received, part.emitted, part.parked) for some in steps.values() for part in some]
            if news != told or now_s - told_s >= SILENT_AT_MOST_S - every_s:
                told, told_s = news, now_s
                self._send(self._figures())

    def _figures(self) -> Figures:
        if self._parts is None:
            return Figures(self._number, {}, {})
        memory = memory_bytes([os.getpid()])
        return Figures(self._number, self._steps(), self._wiring.balance(), self._wiring.loads(), memory)

    def _steps(self) -> dict[str, list[StepStats]]:
        if self._parts is None:
            return {}
        steps = {name: figures_of(stages) for name, stages in self._parts.stages.items()}
        for stats in self._wiring.refused:
            steps[stats.step].append(stats)
        return steps

    def _send(self, message: object) -> None:
        with suppress(OSError):  # the driver is gone: whoever receives learns of it
            self._link.send(message)


def main() -> None:
    """Be a host. It does what the driver says, and ends with it; interrupts are the driver's business."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which programs that operators start would inherit
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    end = socket.socket(fileno=int(sys.argv[1]))
    end.set_inheritable(False)
    link = SocketLink(end)
    setup = link.receive()
    if not isinstance(setup, Setup):
        return  # the driver is gone already
    sys.path[:] = setup.search_path
    if not HostProgram(link, setup).run():
        sys.stdout.flush()
        os._exit(1)  # threads are left that do not end


if __name__ == "__main__":
    main()
