"""What keys and tenants may still use: requests at once, rates, budgets. Pure: no I/O, no clock, times come in.

A request is let in by its key and by its tenant, or by neither. When it comes, the most that it can use is reserved in
the budgets and what it probably uses is taken from the rates; when it ends, both are put right. So a budget is never
exceeded, however many requests run at once.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sage.gateway.config import KeyConfig, Limits, Period, TenantConfig
from sage.gateway.faults import Refusal

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600, 86_400
USUAL_REQUEST_S = 1.0
"""How long a request takes, until one has been seen to end."""
REMEMBERED = 0.9
"""Of what is known of that, when another one ends."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happens."""

    monotonic_s: float
    wall_s: float
    """For the periods of budgets alone."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a request wants, in tokens."""

    tokens: float
    """That it probably uses."""
    most_tokens: int
    """More it cannot use."""


class Bucket:
    """A rate: `per_minute` at most are saved up, and they come evenly."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = 0.0

    def wait_s(self, amount: float, now: float) -> float:
        """Until there is so much; for more than a minute's worth until it is full, and the rest is owed."""
        self._fill(now)
        missing = min(amount, self.per_minute) - self._level
        return max(0.0, missing * MINUTE_S / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """Also what is not there; a negative amount gives back."""
        self._fill(now)
        self._level = min(self._level - amount, self.per_minute)

    def _fill(self, now: float) -> None:
        gone_s = max(0.0, now - self._at)
        self._level = min(self._level + gone_s * self.per_minute / MINUTE_S, self.per_minute)
        self._at = now


class Budget:
    """So many tokens in each period of UTC; `spent` already in the one of `wall_s`."""

    def __init__(self, tokens: int, per: Period, spent: int, wall_s: float) -> None:
        self._tokens = tokens
        self._per = per
        self._spent = spent
        self._reserved = 0
        self._begins_s = period_begins(per, wall_s)

    @property
    def per(self) -> Period:
        return self._per

    def left(self, wall_s: float) -> int:
        """Spent neither yet nor, perhaps, by what runs."""
        return self.unspent(wall_s) - self._reserved

    def unspent(self, wall_s: float) -> int:
        begins_s = period_begins(self._per, wall_s)
        if begins_s > self._begins_s:
            self._begins_s, self._spent = begins_s, 0
        return self._tokens - self._spent

    def reserve(self, tokens: int) -> None:
        self._reserved += tokens

    def settle(self, reserved: int, spent: int, wall_s: float) -> None:
        self.unspent(wall_s)
        self._reserved -= reserved
        self._spent += spent


class Allowance:
    """What one key, or one tenant, may still use. `who` is how errors name it."""

    def __init__(self, who: str, limits: Limits, spent: int, wall_s: float) -> None:
        self._who = who
        self._limits = limits
        self._requests = Bucket(limits.requests_per_minute) if limits.requests_per_minute else None
        self._tokens = Bucket(limits.tokens_per_minute) if limits.tokens_per_minute else None
        self._budget = Budget(limits.budget_tokens, limits.budget_per, spent, wall_s) if limits.budget_tokens else None
        self._running = 0
        self._usual_s = USUAL_REQUEST_S

    def check(self, need: Need, now: Moment) -> None:
        """Raises `Refusal` for a request that is too much now."""
        most = self._limits.max_requests
        if self._running >= most:
            message = f"{self._who} has {most} requests already"
            raise Refusal(429, message, code="too_many_requests", retry_after_s=self._usual_s / most)
        self._check_rate(self._requests, 1, "requests_per_minute", now)
        self._check_rate(self._tokens, need.tokens, "tokens_per_minute", now)
        if self._budget is not None and need.most_tokens > self._budget.left(now.wall_s):
            raise self._over_budget(self._budget, need, now.wall_s)

    def take(self, need: Need, now: Moment) -> None:
        self._running += 1
        if self._requests is not None:
            self._requests.take(1, now.monotonic_s)
        if self._tokens is not None:
            self._tokens.take(need.tokens, now.monotonic_s)
        if self._budget is not None:
            self._budget.reserve(need.most_tokens)

    def settle(self, need: Need, used: int, took_s: float, now: Moment) -> None:
        self._running -= 1
        self._usual_s += (1 - REMEMBERED) * (took_s - self._usual_s)
        if self._tokens is not None:
            self._tokens.take(used - need.tokens, now.monotonic_s)
        if self._budget is not None:
            self._budget.settle(need.most_tokens, used, now.wall_s)

    def _check_rate(self, bucket: Bucket | None, amount: float, name: str, now: Moment) -> None:
        if bucket is not None and (wait_s := bucket.wait_s(amount, now.monotonic_s)) > 0:
            message = f"{self._who} may use {bucket.per_minute} {name.replace('_', ' ')}"
            raise Refusal(429, message, code="rate_limit_exceeded", param=name, retry_after_s=wait_s)

    def _over_budget(self, budget: Budget, need: Need, wall_s: float) -> Refusal:
        """What runs may give back what it reserved; what is spent is gone until the period ends."""
        left = max(0, budget.left(wall_s))
        message = f"this request may use {need.most_tokens} tokens, and {self._who} has {left} left"
        if need.most_tokens <= budget.unspent(wall_s):
            message += " that running requests do not claim"
            return Refusal(429, message, code="rate_limit_exceeded", param="budget_tokens", retry_after_s=self._usual_s)
        ends_s = period_ends(budget.per, wall_s)
        retry_after_s = None if ends_s is None else ends_s - wall_s
        return Refusal(429, message, code="insufficient_quota", param="budget_tokens", retry_after_s=retry_after_s)


class Reservation:
    """Of one request that runs; to be settled exactly once."""

    def __init__(self, allowances: list[Allowance], need: Need, now: Moment) -> None:
        self._allowances = allowances
        self._need = need
        self._since = now.monotonic_s
        for allowance in allowances:
            allowance.take(need, now)

    def settle(self, used_tokens: int, now: Moment) -> None:
        """It is over, and used so much."""
        for allowance in self._allowances:
            allowance.settle(self._need, used_tokens, now.monotonic_s - self._since, now)


class Allowances:
    """Those of all keys and tenants. `spent` by key in the current period of each kind."""

    def __init__(
        self,
        keys: Sequence[KeyConfig],
        tenants: Sequence[TenantConfig],
        spent: Mapping[Period, Mapping[str, int]],
        wall_s: float,
    ) -> None:
        self._of: dict[str, list[Allowance]] = {
            key.name: [Allowance(f"the key {key.name}", key, spent[key.budget_per].get(key.name, 0), wall_s)]
            for key in keys
        }
        for tenant in tenants:
            members = [key.name for key in keys if key.tenant == tenant.name]
            used = sum(spent[tenant.budget_per].get(name, 0) for name in members)
            shared = Allowance(f"the tenant {tenant.name}", tenant, used, wall_s)
            for name in members:
                self._of[name].append(shared)

    def reserve(self, key: str, need: Need, now: Moment) -> Reservation:
        """For a request of `key`; one that is not known may use what it likes. Raises `Refusal` 429."""
        allowances = self._of.get(key, [])
        for allowance in allowances:
            allowance.check(need, now)
        return Reservation(allowances, need, now)


def period_begins(per: Period, wall_s: float) -> float:
    match per:
        case "hour":
            return wall_s // HOUR_S * HOUR_S
        case "day":
            return wall_s // DAY_S * DAY_S
        case "month":
            day = datetime.fromtimestamp(wall_s, UTC)
            return datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()
        case "ever":
            return 0.0


def period_ends(per: Period, wall_s: float) -> float | None:
    """None: never."""
    begins_s = period_begins(per, wall_s)
    match per:
        case "hour":
            return begins_s + HOUR_S
        case "day":
            return begins_s + DAY_S
        case "month":
            day = datetime.fromtimestamp(begins_s, UTC)
            return begins_s + calendar.monthrange(day.year, day.month)[1] * DAY_S
        case "ever":
            return None
