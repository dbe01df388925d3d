"""Figures of a server for Prometheus."""

from __future__ import annotations

from attrs import define, field
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from loraplug_serve.server.served import Served

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@define
class Metrics:
    """Counted since the start."""

    served: Served
    registry: CollectorRegistry = field(factory=CollectorRegistry)
    requests: Counter = field(init=False)
    tokens: Counter = field(init=False)
    first: Histogram = field(init=False)
    whole: Histogram = field(init=False)

    def __attrs_post_init__(self) -> None:
        known = self.registry
        self.requests = Counter("loraplug_requests", "Requests by model, path and status", ["model", "path", "status"],
                                registry=known)  # fmt: skip
        self.tokens = Counter(
            "loraplug_tokens", "Tokens of models in memory, by kind", ["model", "kind"], registry=known
        )
        self.first = Histogram("loraplug_first_token_seconds", "Seconds to the first token", ["model"],
                               buckets=_SECONDS, registry=known)  # fmt: skip
        self.whole = Histogram("loraplug_request_seconds", "Seconds to the end of the answer", ["model"],
                               buckets=_SECONDS, registry=known)  # fmt: skip
        waiting = Gauge("loraplug_requests_waiting", "Requests waiting", registry=known)
        waiting.set_function(lambda: sum(worker.waiting for worker in self.served.workers))
        running = Gauge("loraplug_answers_running", "Answers being generated", registry=known)
        running.set_function(lambda: sum(worker.running for worker in self.served.workers))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return bytes(generate_latest(self.registry))
