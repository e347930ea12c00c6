"""The order that holds now: settings, what the artifact recommends, and whether the ranker may order at all."""

from predictor.order import Order
from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.identity import Identities
from proxy.order import Ordering, fallen_back, make_classes, new_order, ordering, tenant_limits
from proxy.scheduling.scheduler import Scheduler
from proxy.settings import Settings


class OrderInForce:
    """Each change keys everybody who waits anew, at once."""

    def __init__(
        self, settings: Settings, scheduler: Scheduler, dispatcher: Dispatcher, clock: Clock, *, fixed: bool
    ) -> None:
        """`fixed`: the policy was handed over as an object, and no artifact has a say in it."""
        self._settings = settings
        self._scheduler = scheduler
        self._dispatcher = dispatcher
        self._clock = clock
        self._fixed = fixed
        self._policies = {one.name: one.policy for one in scheduler.classes}
        self._recommended: Order | None = None
        self._fallen = False

    def __repr__(self) -> str:
        return ", ".join(f"{name} {policy.name}" for name, policy in self._policies.items())

    @property
    def ordering(self) -> Ordering:
        """Policy, D and lane share as configured or recommended, and who chose each."""
        return ordering(self._settings, self._recommended)

    def reload(self, settings: Settings) -> Identities:
        """Take over new settings; where they are wrong or need a restart, raises SettingsError and changes nothing."""
        identities, self._policies = new_order(settings, self._scheduler.classes, self._recommended)
        self._settings = settings
        limits = tenant_limits(settings.keys)
        self._dispatcher.apply(self._scheduler.limit_tenants(limits, self._clock.now_us()))
        self._apply()
        return identities

    def recommend(self, order: Order | None) -> None:
        """Another artifact serves: what replay chose for its traffic holds where the operator has set nothing."""
        if self._fixed or order == self._recommended:
            return
        self._recommended = order
        self._policies = {one.name: one.policy for one in make_classes(self._settings, recommended=order)}
        self._apply()

    def fall(self, fallen: bool) -> None:
        """True: first come, first served while the ranker may not order; False gives the order back."""
        self._fallen = fallen
        self._apply()

    def _apply(self) -> None:
        policies = fallen_back(self._policies) if self._fallen else self._policies
        for tier in self._scheduler.tiers:
            tier.queue.lane_share = self.ordering.lane_share
        self._dispatcher.apply(self._scheduler.switch_policies(policies, self._clock.now_us()))
