"""The limit of a client of a server that lets requests wait."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from sage.scheduling.limiter import Flight
from sage.scheduling.queued import WAITING, QueuedLimit


@given(st.lists(st.sampled_from(["send", "answer", "end", "refuse"]), max_size=200), st.integers(1, 50))
def test_some_always_wait_and_not_too_many(events: list[str], most: int) -> None:
    limit = QueuedLimit(most=most)
    waiting: deque[Flight] = deque()
    answered: deque[Flight] = deque()
    for event in events:
        if event == "send" and limit.in_flight < limit.limit:
            waiting.append(limit.begin(0.0))
        elif event == "answer" and waiting:
            answered.append(waiting.popleft())
            limit.progress(answered[-1], 0.0, 1.0)
        elif event == "end" and answered:
            limit.end(answered.popleft(), 0.0)
        elif event == "refuse" and waiting:
            limit.end(waiting.popleft(), 0.0, refused=True)
        assert limit.in_flight == len(waiting) + len(answered)
        assert limit.limit == max(1, min(most, 2 * len(answered) + WAITING))
        assert limit.snapshot().in_flight == limit.in_flight
