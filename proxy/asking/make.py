"""From settings to an asker."""

from typing import Final

from proxy.asking.asker import Asker
from proxy.asking.gate import AskLimits
from proxy.asking.tally import AskTally
from proxy.asking.vocabulary import Vocabulary
from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.engines.registry import Engines
from proxy.metrics import Metrics
from proxy.ranking import Estimator
from proxy.settings import Settings
from proxy.upstream import Upstream

# Of the budget, while the ranker in service cannot use what models say: enough to log it for a retraining.
_LEARNING_PART: Final = 1 / 3


def make_asker(
    settings: Settings,
    api_key: str | None,
    *,
    dispatcher: Dispatcher,
    engines: Engines,
    upstream: Upstream,
    estimator: Estimator,
    metrics: Metrics,
    clock: Clock,
) -> Asker | None:
    """None where nobody is to be asked."""
    if settings.self_prediction == "off":
        return None
    share = settings.self_prediction_share
    return Asker(
        AskLimits(share, share, settings.self_prediction_deadline_s),
        learning_part=_LEARNING_PART if settings.self_prediction == "auto" else 1.0,
        dispatcher=dispatcher,
        engines=engines,
        estimator=estimator,
        tally=AskTally(metrics),
        vocabulary=Vocabulary(engines, upstream, api_key),
        clock=clock,
    )
