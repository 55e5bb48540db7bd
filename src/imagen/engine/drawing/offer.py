"""What a worker is there to draw and where, what of it may be taken now, and what it tells others of both."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from imagen.core.device import Sharing
from imagen.core.model import Model
from imagen.engine.drawing.able import Able
from imagen.store import order, presence
from imagen.store.bell import queue_of, slot_of
from imagen.store.order import Place


class Offer:
    """The enabled models of the catalog, or only `models`; with `able`, without those that cannot be drawn here now."""

    def __init__(
        self,
        catalog: Callable[[], Mapping[str, Model]],
        models: Sequence[str] | None,
        *,
        sharing: Callable[[], Mapping[str, Sharing]],
        solo: bool,
        able: Able | None,
    ) -> None:
        self.left_over: Mapping[str, Model] = {}  # in no catalog any more, but jobs wait for them
        self.able = able
        self._catalog = catalog
        self._models = models
        self._sharing = sharing
        self._solo = solo

    @property
    def models(self) -> dict[str, Model]:
        """Those of the catalog."""
        return {
            name: model
            for name, model in self._catalog().items()
            if model.enabled and (self._models is None or name in self._models)
        }

    def takes(self, carried: Mapping[str, Place] = MappingProxyType({})) -> dict[str, Place]:
        """Of what a job may be taken now; `carried` are models that only jobs know."""
        places = self._places(carried)
        return places if self.able is None else self.able.takes(places)

    def serves(self) -> dict[str, Place]:
        """What others may count on."""
        if self._solo:
            return {}
        places = self._places()
        return places if self.able is None else self.able.serves(places)

    def lacks(self) -> presence.Lacks:
        """What others are told cannot be drawn here now, and why."""
        places = self._places()
        lacks = self.able.lacks if self.able is not None else {}
        return {name: (places[name].device, error) for name, error in lacks.items() if name in places}

    def topics(self) -> frozenset[str]:
        """What to be woken by."""
        places = self._places() if self._solo else self.serves()
        names = [*places, None]  # None: rows by SQL that name no model
        return frozenset({queue_of(name) for name in names} | {slot_of(place.device) for place in places.values()})

    async def look(self, ring: Callable[[str], None], tell: Callable[[], Awaitable[None]]) -> None:
        """See, again and again, what can be drawn here. What may be taken from now on is rung for."""
        assert self.able is not None
        # The one topic that is listened to whatever can be drawn.
        await self.able.keep_looking(
            lambda: {**self.left_over, **self.models}, found=lambda: ring(queue_of(None)), changed=tell
        )

    def _places(self, carried: Mapping[str, Place] = MappingProxyType({})) -> dict[str, Place]:
        """With those that only jobs know of any more, and shared as the settings say."""
        budgets = {name: one.vram_mib for name, one in self._sharing().items() if one.vram_mib is not None}
        known = {**self.left_over, **self.models}
        return order.sharing({**carried, **{name: order.place_of(model) for name, model in known.items()}}, budgets)
