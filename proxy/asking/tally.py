"""What became of the asking: hit, late, failed or skipped, each request once, and why queries failed."""

import logging
from typing import Final

from proxy.metrics import Metrics

_LOG: Final = logging.getLogger("headway.asking")
_FAILURES_PER_LINE: Final = 100


class AskTally:
    """Counts for /metrics and the status page."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "headway_self_predictions",
            "Requests by whether their model told of their length before they were sent.",
            ("result", "reason"),
        )
        self._hit, self._late, self._unanswered = (
            self._requests.labels(result, "") for result in ("hit", "late", "failed")
        )
        self._failed = metrics.counter("headway_self_prediction_failures", "Queries without an answer.")
        self.failures = 0

    def hit(self) -> None:
        """It was asked about and moved in time."""
        self._hit.inc()

    def late(self) -> None:
        """It was sent before the answer came."""
        self._late.inc()

    def unanswered(self) -> None:
        """Its query failed while it waited."""
        self._unanswered.inc()

    def skipped(self, reason: str) -> None:
        """Nobody asked."""
        self._requests.labels("skipped", reason).inc()

    def failed(self, error: Exception) -> None:
        """A query brought no answer; said in the log without filling it."""
        if self.failures % _FAILURES_PER_LINE == 0:
            _LOG.warning("a self-prediction query brought nothing: %s", str(error) or type(error).__name__)
        self.failures += 1
        self._failed.inc()
