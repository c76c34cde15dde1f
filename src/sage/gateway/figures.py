"""What ``/metrics`` shows, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from sage.llm.pool import EndpointPool
from sage.metrics import Family, Histogram, HistogramSnapshot, Labels, prometheus_text


class Figures:
    """What has happened since the gateway's start."""

    def __init__(self) -> None:
        self.admission = Histogram()
        """From a request's arrival until it was let in."""
        self.queued = Histogram()
        """From then until it was sent."""
        self.first_byte = Histogram()
        """From when it was sent to the first byte of its answer."""
        self.endpoint = Histogram()
        """From when it was sent to the last byte."""
        self.whole = Histogram()
        """From arrival to the last byte."""
        self._answers: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._looked_up: Counter[str] = Counter()

    def answered(self, path: str, status: int) -> None:
        """A request ended; `path` is a route, never what a client made up."""
        self._answers[path, status] += 1

    def used(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        self._tokens[model, "prompt"] += prompt_tokens
        self._tokens[model, "completion"] += completion_tokens

    def looked_up(self, said: str) -> None:
        """In the cache of answers, which said HIT, MISS or SKIP."""
        self._looked_up[said] += 1

    def text(self, pools: Mapping[str, EndpointPool]) -> str:
        """`pools` by model."""
        return prometheus_text(self._families(pools))

    def _families(self, pools: Mapping[str, EndpointPool]) -> Iterator[Family]:
        answers: dict[Labels, float | HistogramSnapshot] = {
            (("path", path), ("status", str(status))): count for (path, status), count in self._answers.items()
        }
        yield Family("sage_gateway_answers_total", "Answers by route and status.", "counter", answers)
        tokens: dict[Labels, float | HistogramSnapshot] = {
            (("model", model), ("kind", kind)): count for (model, kind), count in self._tokens.items()
        }
        yield Family("sage_gateway_tokens_total", "Tokens that endpoints counted.", "counter", tokens)
        looked_up: dict[Labels, float | HistogramSnapshot] = {
            (("result", said.lower()),): count for said, count in self._looked_up.items()
        }
        yield Family("sage_gateway_cache_total", "Requests that asked for the cache.", "counter", looked_up)
        for name, help_, histogram in (
            ("admission_seconds", "From arrival until let in.", self.admission),
            ("queue_seconds", "From let in until sent.", self.queued),
            ("endpoint_first_byte_seconds", "From sent to the first byte.", self.first_byte),
            ("endpoint_seconds", "From sent to the last byte.", self.endpoint),
            ("request_seconds", "From arrival to the last byte.", self.whole),
        ):
            yield _one("histogram", name, help_, histogram.snapshot())
        distinct = list({id(pool): pool for pool in pools.values()}.values())
        yield _one("gauge", "waiting_requests", "Requests that wait for room.", sum(pool.waiting for pool in distinct))
        endpoints = [endpoint for pool in distinct for endpoint in pool.snapshot()]
        for name, help_, values in (
            ("limit", "Requests that it does well at once.", [e.limit.limit for e in endpoints]),
            ("in_flight", "Requests that it has.", [e.limit.in_flight for e in endpoints]),
            ("outstanding_tokens", "Estimated tokens of these.", [e.outstanding_tokens for e in endpoints]),
            ("healthy", "0 while it fails.", [e.healthy for e in endpoints]),
        ):
            samples: dict[Labels, float | HistogramSnapshot] = {
                (("endpoint", endpoint.name),): float(value) for endpoint, value in zip(endpoints, values, strict=True)
            }
            yield Family(f"sage_gateway_endpoint_{name}", help_, "gauge", samples)


def _one(kind: str, name: str, help_: str, value: float | HistogramSnapshot) -> Family:
    return Family(f"sage_gateway_{name}", help_, kind, {(): value})
