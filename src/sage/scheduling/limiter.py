"""How many requests an endpoint should have in flight, found by feedback: no I/O, no clock, times come in as arguments.

The law
-------
A batching server's throughput X (output tokens a second) grows with the number of requests in flight N up to a point
that nobody knows: a hard one (seats, cache blocks), a soft one (each step grows with the batch), or a peak beyond
which it falls. All show in the elasticity ``e = d ln X / d ln N``: 1 where requests do not disturb one another, 0 where
one more only delays the others, negative beyond a peak. After each round ::

    ln n  +=  GAIN * boost * (e - PRICE + (1 - e) * ln(1 - w))

`w` is the share of the requests in flight that still wait for their first token: where more requests bring nothing (e
near 0) those that wait should not have been sent. PRICE is what one more request must bring to be worth its latency.
`boost` grows while one round after another says the same clearly, which makes doubling out of the first rounds and out
of a change of capacity; it is 1 around the optimum. Where answers come whole, and waiting cannot be seen, a doubling
that meets a hard knee tells where that was: the law alone would need ten rounds to come back to it. No latency is
compared with a remembered smallest one, so a server that became slower or quicker is nothing special.

The estimate
------------
Rounds (`sage.scheduling.rounds`) alternate between a little more and a little less than n; N and X are measured, not
assumed, and e is estimated from their differences (`sage.scheduling.elasticity`). A round lasts for a number of tokens
per stream, after a moment in which the requests in flight follow the limit. A round in which demand did not fill the
limit says nothing, and a jump that requests in flight cannot explain (capacity went or came) makes it forget what it
knew.

A fall is a special jump: a server that lost capacity may collapse under what is in flight, where each round would take
many times as long. So a round that goes so badly is broken off, and where throughput fell by more than fewer requests
and longer prompts explain, the next rounds are at `RETREAT` of n: it costs little where the server only became slower.
Part of a fall in the slope instead would look like e = 1, and raise the limit just then. Only where answers are
streamed: a round of whole answers is a few of them, and falls by so much by chance.

Others
------
Clients that share an endpoint each see their own throughput grow with their share, so together they send more than is
best, and their shares are what chance made them. Where the endpoint's own figures say that a good part of its requests
are not ours, each client therefore also aims at the same number of its own requests *waiting* there (`QUEUE`), whatever
it has in flight: a queue that serves in order gives equal shares to those that have as much in it (TCP Vegas, Brakmo
and Peterson 1995). Without such figures (only vLLM's ``/metrics`` are read) it does not know, and shares stay unequal.
Put one pool, or the gateway, in front of an endpoint: that is exact.

Sources: probing for the gradient of a utility, and a step that grows with confidence: PCC Vivace (Dong et al.,
NSDI '18). Throughput and latency as the two axes, and "application-limited" samples: BBR (Cardwell et al., ACM Queue
2016). The gradients of latency at Netflix (concurrency-limits, Gradient2) and in Envoy (adaptive concurrency) need a
smallest latency, which in a batching server belongs to an empty one. At most one cut by 0.9 for a window with 10%
refusals: aibrix#2452, where halving at each refusal took a limit of 128 to single digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from sage.scheduling.elasticity import Elasticity, Point, fall, knee
from sage.scheduling.rounds import Round

MOST = 1024
GAIN = 0.3
PRICE = 0.07
PROBE = 0.07
"""How far the two kinds of rounds lie from n, as a part of it."""
ROUND_TOKENS = 64
"""Of each stream in a round; fewer where answers are shorter, and a quarter of that while the boost is large."""
SETTLE = 0.25
"""Of a round's length, before it: the requests in flight follow the limit."""
QUEUE, QUEUE_SHARE = 3.0, 0.15
"""So many of our requests wait at an endpoint that others use too; and the part of n that is far from that."""
OTHERS = 1.25
"""An endpoint that has so many times the requests that we sent it has others."""
LARGEST_STEP, LARGEST_CUT = 0.7, 0.4
"""Of ln n in one round, up and down: about a doubling, and by a third. Larger cuts went far below the optimum."""
CLEAR = 0.5
BOOST, LARGEST_BOOST = 1.5, 6.0
BEYOND_KNEE = 1.05
SURPRISED_BOOST = 4.0
"""After a surprise rounds are short at first. With a boost of 2 they were not, and where throughput had collapsed each
took 20 s."""
FALL, COLLAPSE = 0.35, 0.5
"""Of ln X, beyond what is explained: by the end of a round, and within one that has brought `SEEN_TOKENS` a stream."""
RETREAT, SEEN_TOKENS = 0.7, 8
FILLED = 0.85
FIRST_LIMIT = 8
REFUSED_SHARE, CUT = 0.1, 0.9
LARGEST_WAITING_SHARE = 0.95
FRESH_S = 2.0
"""For how long a report of the endpoint's own load is believed (llm-d-router#2066: older ones mislead)."""


class Flight:
    """One request in flight, between `AdaptiveLimit.begin` and `AdaptiveLimit.end`."""

    __slots__ = ("answered", "output_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: float) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = 0.0
        self.answered = False


class Load(NamedTuple):
    """What the endpoint said of itself, everybody's requests together."""

    at: float
    running: float
    waiting: float


@dataclass(frozen=True, slots=True)
class LimitSnapshot:
    """What a limiter holds to be true."""

    limit: int
    in_flight: int
    elasticity: float | None
    """Of the throughput, in the last round; None before there was one."""
    waiting_share: float
    """Of the requests in flight, those without a first token."""
    throughput: float
    """Output tokens a second, in the last round."""
    rounds: int


class AdaptiveLimit:
    """The limit of one endpoint. Whoever sends reads `limit` before each request: a lowered one binds at once.

    `start` is a hint: it begins there, but with no more than 8, because an endpoint whose throughput collapses under
    too many requests needs minutes to get rid of them. `most` may be set at any time. With ``streamed=False`` tokens
    are reported only when a request ends (embeddings): rounds are longer then, and waiting cannot be seen.
    """

    def __init__(self, start: int = FIRST_LIMIT, *, most: int = MOST, streamed: bool = True) -> None:
        self.most = most
        self.in_flight = 0
        self._streamed = streamed
        self._center = float(max(1, min(start, FIRST_LIMIT, most)))
        self._upper = True
        self._boost = LARGEST_BOOST
        self._direction = 0.0
        self._elasticity = Elasticity(PRICE)
        self._round = Round()
        self._last: Point | None = None
        self._answer_tokens = float(ROUND_TOKENS)
        self._load: Load | None = None
        self._outcomes = self._refusals = 0
        self._unanswered = 0
        self._unchecked = 0.0
        self._settled = False
        self._snapshot: tuple[float | None, float, float, int] = (None, 0.0, 0.0, 0)

    @property
    def limit(self) -> int:
        """At least 1."""
        probe = max(0.5, PROBE * self._center)
        return max(1, min(self.most, round(self._center + (probe if self._upper else -probe))))

    def begin(self, now: float, prompt_tokens: float = 0.0) -> Flight:
        """A request is sent."""
        self._pass(now)
        self.in_flight += 1
        self._unanswered += 1
        return Flight(prompt_tokens)

    def progress(self, flight: Flight, now: float, output_tokens: float) -> None:
        """`output_tokens` more of an answer have come; the first time, its prompt was read too."""
        if not flight.answered:
            self._pass(now)
            flight.answered = True
            self._unanswered -= 1
            self._round.prompts += flight.prompt_tokens
        flight.output_tokens += output_tokens
        self._round.work += output_tokens
        self._unchecked += output_tokens
        if self._unchecked >= self.in_flight:  # once for a token of every stream: this is called for each chunk
            self._unchecked = 0.0
            self._step(now)

    def end(self, flight: Flight, now: float, *, refused: bool = False) -> None:
        """It is over, in whatever way; `refused`: the endpoint had too much to do (429, 503), or failed under it."""
        self._pass(now)
        self.in_flight -= 1
        self._unanswered -= not flight.answered
        if flight.output_tokens:
            self._round.ends += 1
            self._answer_tokens += 0.05 * (flight.output_tokens - self._answer_tokens)
        self._count(refused)
        self._step(now)

    def report_load(self, now: float, running: float, waiting: float) -> None:
        """The endpoint's own figures, which count everybody's requests; used for `FRESH_S`."""
        self._load = Load(now, running, waiting)

    def snapshot(self) -> LimitSnapshot:
        elasticity, waiting_share, throughput, rounds = self._snapshot
        return LimitSnapshot(self.limit, self.in_flight, elasticity, waiting_share, throughput, rounds)

    def _count(self, refused: bool) -> None:
        """One cut for a window of as many requests as the limit, if 10% (and two) of them were refused."""
        self._outcomes += 1
        self._refusals += refused
        if self._outcomes >= max(self.limit, 10):
            if self._refusals >= max(2.0, REFUSED_SHARE * self._outcomes):
                self._center = max(1.0, CUT * self._center)
                self._boost = 1.0
            self._outcomes = self._refusals = 0

    def _pass(self, now: float) -> None:
        self._round.passed(now, self.in_flight, self._unanswered)

    def _step(self, now: float) -> None:
        """End the round, or the settling before it, if it is time."""
        if self.in_flight > self.limit:
            self._pass(now)
            self._round.clear(now)
            self._settled = False
            return
        length = 1.0 if self._settled or not self._streamed else SETTLE
        done = self._done(now)
        if done < length:
            if self._settled and self._collapses(done):
                self._retreat(now)
            return
        if self._settled:
            if self._round.ends < min(4.0, self.limit / 4):
                return
            self._end_round(now)
        self._settled = not self._settled
        self._round.clear(now)

    def _done(self, now: float) -> float:
        """How much of a round is over, as a part of it."""
        if not self._streamed:
            return self._round.ends / self.limit
        self._pass(now)
        tokens = ROUND_TOKENS / (4 if self._boost > 2 else 1)
        return self._round.tokens_per_stream() / min(tokens, self._answer_tokens)

    def _collapses(self, done: float) -> bool:
        """The round under way should have ended, and goes so badly that its end need not be waited for."""
        round_, last = self._round, self._last
        if last is None or not self._streamed or not round_.has_something:
            return False
        if round_.work < SEEN_TOKENS * self.in_flight:
            return False
        return done * round_.expected(last) > round_.work and fall(last, round_.point()) > COLLAPSE

    def _retreat(self, now: float) -> None:
        self._forget()
        self._last = None
        self._center = max(1.0, RETREAT * self._center)
        self._settled = False
        self._round.clear(now)

    def _forget(self) -> None:
        self._elasticity.forget()
        self._boost, self._direction = SURPRISED_BOOST, 0.0

    def _end_round(self, now: float) -> None:
        self._pass(now)
        if not self._round.has_something:
            return
        point = self._round.point()
        if math.exp(point.log_in_flight) < FILLED * self.limit - 0.5:
            self._last = None
            return
        last, self._last = self._last, point
        self._upper = not self._upper
        if last is None:
            return
        if self._streamed and fall(last, point) > FALL:
            self._retreat(now)
            return
        if not self._elasticity.learn(last, point):
            self._forget()
        waiting_share, elasticity = self._waiting_share(now), self._elasticity.near(math.log(self._center))
        before, _, _, rounds = self._snapshot
        self._snapshot = (elasticity, waiting_share, math.exp(point.log_throughput), rounds + 1)
        found = None if before is None or self._streamed else knee(before, last, point)
        if found is None:
            self._move(self._pull(now, elasticity, waiting_share))
        else:
            self._center, self._boost, self._direction = max(1.0, BEYOND_KNEE * math.exp(found)), 1.0, 0.0

    def _waiting_share(self, now: float) -> float:
        """Of the requests at the endpoint, those without a first token: by its own report, else by ours."""
        if self._load is not None and now - self._load.at <= FRESH_S:
            share = self._load.waiting / max(1.0, self._load.running + self._load.waiting)
        else:
            share = self._round.waiting_share if self._streamed else 0.0
        return min(LARGEST_WAITING_SHARE, share)

    def _pull(self, now: float, elasticity: float, waiting_share: float) -> float:
        """Upward if positive: what the law says; among others, the more so the fewer of ours wait, to equal shares."""
        pull = elasticity - PRICE + (1 - max(0.0, elasticity)) * math.log(1 - waiting_share)
        if not self._has_others(now):
            return pull
        waiting = waiting_share * self._center
        missing = (QUEUE - waiting) / max(QUEUE, QUEUE_SHARE * self._center)
        return pull + waiting / (waiting + QUEUE) * (max(-1.0, min(1.0, missing)) - pull)

    def _has_others(self, now: float) -> bool:
        load = self._load
        if load is None or now - load.at > FRESH_S:
            return False
        return load.running + load.waiting > OTHERS * self.in_flight + 1

    def _move(self, pull: float) -> None:
        direction = math.copysign(1.0, pull)
        if direction != self._direction and self._direction:
            self._boost = 1.0
        elif abs(pull) > CLEAR:
            self._boost = min(LARGEST_BOOST, self._boost * BOOST)
        else:
            self._boost = max(1.0, self._boost / BOOST)
        self._direction = direction
        step = max(-LARGEST_CUT, min(LARGEST_STEP, GAIN * self._boost * pull))
        self._center = max(1.0, min(self.most, self._center * math.exp(step)))
