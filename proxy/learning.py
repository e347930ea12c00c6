"""What the ranker in service is told and held to while it serves: new artifacts, live accuracy, its shadow."""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.live_order import JUDGED_EVERY_S, Accuracy, Guardrail
from predictor.registry import Role
from proxy.artifact_watch import ArtifactSource, ArtifactWatch, PointerFile
from proxy.clock import Clock
from proxy.exchange import Exchange, Watched
from proxy.history_file import HistoryFile, remember
from proxy.order_in_force import OrderInForce
from proxy.ranking import Estimator, Ranking
from proxy.retraining import Retraining
from proxy.settings import Settings
from proxy.shadow import MOST_SAMPLES, Sample, Shadow
from proxy.status import RankerStatus, ShadowStatus

_LOG: Final = logging.getLogger("headway.guardrail")


class Learning:
    """Everything about a learned ranker that happens beside the requests' path.

    An estimator that is no `Ranking` (an oracle of the demo, a test's) is left alone.
    """

    def __init__(
        self,
        settings: Settings,
        estimator: Estimator,
        order: OrderInForce,
        clock: Clock,
        logged: Callable[[], int] = lambda: 0,
    ) -> None:
        """`order` falls back where the ranker is proved wrong, and hears what a new artifact recommends; `logged`
        counts the requests that were written to the traffic log."""
        self._settings = settings
        self._ranking = estimator if isinstance(estimator, Ranking) else None
        self._estimator = estimator
        self._order = order
        self._clock = clock
        self._logged = logged
        self.retraining: Retraining | None = None
        self.guardrail = Guardrail(settings.accuracy_floor)
        self.shadow = Shadow()
        self.watches: dict[Role, ArtifactWatch] = {}
        self._memory: HistoryFile | None = None

    @property
    def failures(self) -> int:
        """Requests that the ranker could not rank."""
        return 0 if self._ranking is None else self._ranking.failures

    async def start(self) -> None:
        """Load what is published and what was learned, so that the first request has both.

        Whatever is wrong there, we start.
        """
        if self._ranking is None:
            return
        self._memory = await remember(self._settings, self._ranking.history)
        state = Path(self._settings.state)
        takes = {
            Role.CHAMPION: (self._took_champion, DEFAULT_ARTIFACT),
            Role.SHADOW: (self.shadow.take, None),
        }
        owns_log = self._settings.traffic_log and self._settings.redis is None
        if self._settings.retrain == "auto" and owns_log:
            self.retraining = self._retraining(state)
        for role, (take, unpublished) in takes.items():
            self.watches[role] = ArtifactWatch(
                self._source(state, role),
                role=role,
                state=state,
                history=self._ranking.history,
                take=take,
                unpublished=unpublished,
            )
            await self.watches[role].follow()

    def running(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run as long as the proxy does."""
        beside = [part.run() for part in (self._memory, self.retraining) if part is not None]
        return [*(watch.run() for watch in self.watches.values()), *beside, self._run()]

    async def close(self) -> None:
        """Save what was learned for whoever comes after us."""
        if self._memory is not None:
            await self._memory.save()

    def reload(self, settings: Settings) -> None:
        """Begin or stop predicting, as the policies of new settings ask for it, and look for artifacts."""
        if self._ranking is not None:
            self._ranking.resting = settings.policies == {"fcfs"}
        self.wake()

    def wake(self) -> None:
        """Look now whether another artifact is published."""
        for watch in self.watches.values():
            watch.wake()

    def began(self, exchange: Exchange) -> None:
        """An engine has begun with it; costs the request's path an entry in an array.

        Several answers are as many tokens in less time, which compare with nothing that still runs.
        """
        self._leave(exchange, math.nan, cut=False)
        estimate = exchange.estimate
        if estimate is None or estimate.scored is None or estimate.artifact != self._estimator.artifact_id:
            return
        if exchange.body is None or exchange.body.answer_count > 1:
            return
        now_us, sampled = self._clock.now_us(), None
        if self.shadow.artifact_id is not None and estimate.features:
            sample = Sample(exchange.api, exchange.body, estimate.features, estimate.scored)
            sampled = self.shadow.begin(sample, now_us)
        ticket = self.guardrail.begin(now_us, estimate.prediction.quantile, estimate.scored.tokens)
        exchange.watched = Watched(ticket, sampled)

    def ended(self, exchange: Exchange, tokens: int | None, *, cut: bool) -> None:
        """It has ended, by itself or at a limit after so many tokens; None: otherwise."""
        self._leave(exchange, math.nan if tokens is None else tokens, cut=cut)

    def _leave(self, exchange: Exchange, tokens: float, *, cut: bool) -> None:
        if exchange.watched is None:
            return
        now_us, (ticket, sampled) = self._clock.now_us(), exchange.watched
        exchange.watched = None
        self.guardrail.end(ticket, now_us, tokens, cut=cut)
        if sampled is not None:
            self.shadow.end(sampled, now_us, tokens, cut=cut)

    def status(self) -> RankerStatus:
        """For the status page."""
        ranker = self._ranking
        return RankerStatus(
            artifact=self._estimator.artifact_id,
            failures=self.failures,
            accuracy=_rounded(self.guardrail.accuracy),
            accuracy_requests=self.guardrail.order.requests,
            drift=self.guardrail.order.drift(),
            fallen_back=self.guardrail.fallen,
            recalibrated_groups=0 if ranker is None else len(ranker.recalibration),
            shadow=self._shadow_status(),
            retraining=None if self.retraining is None else self.retraining.status(),
        )

    def _shadow_status(self) -> ShadowStatus | None:
        if self.shadow.artifact_id is None:
            return None
        shadow, champion = self.shadow.accuracies
        return ShadowStatus(
            self.shadow.artifact_id, _rounded(shadow), _rounded(champion), self.shadow.requests
        )

    def _retraining(self, state: Path) -> Retraining:
        return Retraining(
            state,
            every_s=self._settings.retrain_every_s,
            rows=self._settings.retrain_rows,
            written=self._logged,
            live=lambda: (self.guardrail.fallen, self.guardrail.order.drift()),
        )

    def _source(self, state: Path, role: Role) -> ArtifactSource:
        return PointerFile(state, role)

    def _took_champion(self, ranker: LightGBMRanker | None) -> None:
        assert self._ranking is not None and ranker is not None
        self._ranking.take(ranker)
        self._order.recommend(ranker.artifact.metadata.order)
        self.guardrail.begin_anew()
        self.shadow.begin_anew()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(JUDGED_EVERY_S)
            # A little at a time: requests go first.
            self.judge()
            for _ in range(MOST_SAMPLES):
                await asyncio.sleep(0)
                self.shadow.score_one()
            await asyncio.sleep(0)
            self.shadow.judge(self._clock.now_us())

    def judge(self) -> None:
        """Hold what was predicted against what has come since the last time."""
        if self.guardrail.judge(self._clock.now_us()):
            self._say_verdict()
            self._order.fall(self.guardrail.fallen)

    def _say_verdict(self) -> None:
        accuracy, floor = self.guardrail.accuracy, self._settings.accuracy_floor
        assert accuracy is not None, "the verdict has changed"
        seen = f"{accuracy.share:.2f} ({accuracy.lowest:.2f} to {accuracy.highest:.2f})"
        if self.guardrail.fallen:
            _LOG.warning(
                "live pairwise accuracy of %s is %s, below %g: the order falls back to first come, first served",
                self._estimator.artifact_id,
                seen,
                floor,
            )
        else:
            _LOG.info(
                "live pairwise accuracy of %s is %s, above %g: its order is back",
                self._estimator.artifact_id,
                seen,
                floor,
            )


def make_ranking(settings: Settings) -> Ranking:
    """The ranker that comes in the wheel; it rests while first come, first served has nothing to predict."""
    ranking = Ranking()
    ranking.load()
    ranking.resting = settings.policies == {"fcfs"}
    return ranking


def _rounded(accuracy: Accuracy | None) -> float | None:
    return None if accuracy is None else round(accuracy.share, 4)
