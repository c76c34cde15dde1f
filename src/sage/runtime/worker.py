"""Workers: the threads that tasks run on. What happens to a worker is told as events; it decides nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sage.clock import Clock
from sage.record import Batch
from sage.runtime.control import Control
from sage.runtime.inbox import Inbox, Supply
from sage.runtime.ledger import Ledger
from sage.runtime.order import OrderGate
from sage.runtime.reading import SourceStage
from sage.runtime.replicas import Replica
from sage.runtime.rhythm import Rhythm
from sage.runtime.stage import Stage, Target
from sage.runtime.stats import StepStats


@dataclass(frozen=True, slots=True)
class Opened:
    """The worker's stages are open; it waits to be let go."""

    worker: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker is done and has closed its stages. `error` is None after an orderly end."""

    worker: str
    error: BaseException | None


Event = Opened | Ended
Tell = Callable[[Event], None]


class ThreadWorker:
    """One thread that opens its stages, waits for the start, runs `body`, and closes its stages."""

    def __init__(
        self,
        name: str,
        task: str,
        stages: Sequence[Stage],
        body: Callable[[], None],
        control: Control,
        *,
        first: bool,
        opens: bool = True,
    ) -> None:
        """Unless it `opens` its stages, the `body` does that."""
        self.name = name
        self.task = task
        self.first = first
        self._stages = stages
        self._to_open = stages if opens else ()
        self._body = body
        self._control = control
        self._go = threading.Event()
        self._thread: threading.Thread | None = None
        control.on_abort(self._go.set)

    def start(self, tell: Tell) -> None:
        self._thread = threading.Thread(target=self._run, args=(tell,), name=f"sage-{self.name}", daemon=True)
        self._thread.start()

    def go(self) -> None:
        self._go.set()

    def join(self, timeout_s: float) -> bool:
        """True if the thread has ended."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self, tell: Tell) -> None:
        error: BaseException | None = None
        try:
            for stage in self._to_open:
                self._control.check()
                stage.open()
            tell(Opened(self.name))
            self._go.wait()
            self._control.check()
            self._body()
        except BaseException as raised:  # noqa: BLE001 -- the task's outermost edge: it becomes an outcome
            error = raised
        for stage in self._stages:
            try:
                stage.close()
            except BaseException as raised:  # noqa: BLE001 -- as above
                error = error or raised
        tell(Ended(self.name, error))


class Arrivals:
    """Stands in front of the head of a task, and tells how old what comes is."""

    def __init__(self, head: Target, stats: StepStats, clock: Clock) -> None:
        self._head = head
        self._stats = stats
        self._clock = clock

    def push(self, batch: Batch) -> None:
        self._stats.arrived(batch, self._clock.monotonic())
        self._head.push(batch)

    def finish(self) -> None:
        self._head.finish()


def source_body(stage: SourceStage) -> Callable[[], None]:
    """Read the source to its end."""
    return stage.run


def inbox_body(head: Target, inbox: Supply, take: int, ledger: Ledger, *, full: bool = False) -> Callable[[], None]:
    """Push everything that comes through `inbox`, up to `take` records at once, into `head`."""

    def run() -> None:
        while (batch := inbox.take(take, full=full)) is not None:
            head.push(batch)
            ledger.publish()
        head.finish()

    return run


def gathering_body(head: Target, inbox: Supply, take: int, ledger: Ledger, rhythm: Rhythm) -> Callable[[], None]:
    """Like `inbox_body`, in turns."""

    def run() -> None:
        while (batch := inbox.take(take)) is not None:
            rhythm.took(len(batch), time.monotonic())
            head.push(batch)
            ledger.publish()
            if rest_s := rhythm.rest_s(time.monotonic()):
                time.sleep(rest_s)
        head.finish()

    return run


def replica_body(
    head: Target, inbox: Supply, take: int, ledger: Ledger, replica: Replica, *, full: bool
) -> Callable[[], None]:
    """Like `inbox_body`, while `replica` is wanted."""

    def run() -> None:
        while replica.wait_wanted():
            batch = inbox.take(replica.most(take), full=full)
            if batch is None:
                break
            head.push(batch)
            replica.end(len(batch))
            ledger.publish()
        replica.end_all()
        head.finish()

    return run


class OrderedTurns:
    """Shared by the threads of an ordered task: batches leave in the order in which they left the inbox, key by key."""

    def __init__(self, inbox: Inbox, take: int, *, full: bool) -> None:
        self._inbox = inbox
        self._take = take
        self._full = full
        self._gate = OrderGate()
        self._entering = threading.Lock()
        self._leaving = threading.Lock()

    def body(
        self, head: Target, held: Sequence[HeldOutput], ledger: Ledger, replica: Replica | None = None
    ) -> Callable[[], None]:
        """Like `inbox_body`, or `replica_body`; `head` must emit into `held` only."""

        def run() -> None:
            while replica is None or replica.wait_wanted():
                with self._entering:
                    batch = self._inbox.take(self._take, full=self._full)
                    if batch is None:
                        break
                    with self._leaving:
                        turn = self._gate.enter(batch.keys or ())
                head.push(batch)
                if replica is not None:
                    replica.end(len(batch))
                ledger.publish()  # another thread may send on what is held here
                with self._leaving:
                    self._gate.leave(turn, _all(output.release() for output in held))
            if replica is not None:
                replica.end_all()
            head.finish()

        return run


class HeldOutput:
    """Stands in front of a target and holds what is pushed until it is released."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._held: list[Batch] = []

    def push(self, batch: Batch) -> None:
        self._held.append(batch)

    def finish(self) -> None:
        self._target.finish()

    def release(self) -> Callable[[], None]:
        """A function that pushes what is held now."""
        held, self._held = self._held, []

        def push_all() -> None:
            for batch in held:
                self._target.push(batch)

        return push_all


def _all(calls: Iterable[Callable[[], None]]) -> Callable[[], None]:
    """One function that makes all these calls."""
    made = list(calls)

    def call_all() -> None:
        for call in made:
            call()

    return call_all
