"""A queue beside a model of it, walked at random: `hypothesis` looks for the shortest walk that tells them apart."""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from patience import DEADLINE_S
from sage.queues import BatchFull, Empty, Full, Queue, QueueClosed

Make: TypeAlias = Callable[[int | None], Queue[Any]]
ITEMS = st.one_of(st.integers(), st.text(max_size=5), st.none(), st.lists(st.integers(), max_size=3))


def check_against_model(make: Make, *, examples: int = 40) -> None:
    """Walk through queues that `make(maxsize)` makes; they are detached at the end."""

    class Walk(Walker):
        pass

    Walk.make = staticmethod(make)
    run_state_machine_as_test(
        Walk,
        settings=settings(max_examples=examples, stateful_step_count=40),
    )


class Walker(RuleBasedStateMachine):
    make: Make

    @initialize(maxsize=st.sampled_from([1, 2, 3, 17, 150, None]), batch_size=st.sampled_from([1, 2, 100]))
    def begin(self, maxsize: int | None, batch_size: int) -> None:
        self.queue = self.make(maxsize)
        self.queue.batch_size = batch_size
        self.room = maxsize or 10_000
        self.items: deque[Any] = deque()
        self.closed = False

    @rule(item=ITEMS)
    def put(self, item: Any) -> None:
        if self.closed:
            with pytest.raises(QueueClosed):
                self.queue.put(item)
        elif len(self.items) == self.room:
            with pytest.raises(Full):
                self.queue.put_nowait(item)
        else:
            self.queue.put(item, timeout=0)
            self.items.append(item)

    @rule(count=st.integers(1, 120))
    def put_quickly(self, count: int) -> None:
        """One by one, as many as fit."""
        for item in range(0 if self.closed else min(count, self.room - len(self.items))):
            self.queue.put_nowait(item)
            self.items.append(item)

    @rule(items=st.lists(ITEMS, max_size=20))
    def put_batch(self, items: list[Any]) -> None:
        fitting = 0 if self.closed else min(len(items), self.room - len(self.items))
        self.items.extend(items[:fitting])
        if fitting == len(items):
            self.queue.put_batch(items, block=False)
            return
        with pytest.raises(QueueClosed if self.closed else BatchFull) as raised:
            self.queue.put_batch(items, block=False)
        assert list(raised.value.items) == items[fitting:]

    @rule(count=st.integers(1, 60))
    def get(self, count: int) -> None:
        for _ in range(count):
            if not self.items:
                with pytest.raises(QueueClosed if self.closed else Empty):
                    self.queue.get_nowait()
                return
            assert self.queue.get() == self.items.popleft()

    @rule(count=st.integers(1, 30))
    def get_batch(self, count: int) -> None:
        if not self.items:
            with pytest.raises(QueueClosed if self.closed else Empty):
                self.queue.get_batch(count, timeout=0)
            return
        got = self.queue.get_batch(count)
        assert 1 <= len(got) <= count
        assert got == [self.items.popleft() for _ in got]

    @rule()
    def tell(self) -> None:
        """The size; not after each step, for it makes others give up what they hold."""
        assert self.queue.qsize() == len(self.items)
        assert self.queue.empty() == (not self.items)
        assert self.queue.full() == (len(self.items) == self.room)

    @rule()
    def flush(self) -> None:
        assert self.queue.wait_for_pending_puts(timeout=DEADLINE_S)
        assert self.queue.get_stats().buffer_size == 0

    @precondition(lambda self: len(self.items) > 20)
    @rule()
    def close(self) -> None:
        self.queue.close()
        self.closed = True

    @rule()
    def closed_is_told(self) -> None:
        assert self.queue.closed == self.closed

    def teardown(self) -> None:
        self.queue.close()
        self.queue.detach()
