"""What all routes share: the settings, the lanes, the gate, and the models."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from mayfly.draining import Draining
from mayfly.lanes.lane import Lane
from mayfly.lanes.switchboard import Switchboard
from mayfly.models.inventory import Inventory
from mayfly.settings import Settings
from mayfly.web.catalogue import Catalogue
from mayfly.web.gate import Gate
from mayfly.web.sieve import IgnoredFields


@dataclass(frozen=True)
class Service:
    """The service behind the routes.

    Attributes:
        switchboard: the lanes of all models.
        catalogue: what models there are, and which a request means.
        pulling: held while a model is being fetched.
        ignored: what clients are told of fields that mean nothing here.
    """

    settings: Settings
    switchboard: Switchboard
    catalogue: Catalogue
    gate: Gate
    draining: Draining
    pulling: threading.Lock = field(default_factory=threading.Lock)
    ignored: IgnoredFields = field(default_factory=IgnoredFields)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, settings: Settings, lanes: Mapping[str, Lane] | Switchboard, draining: Draining) -> Service:
        """Set the service up."""
        switchboard = lanes if isinstance(lanes, Switchboard) else Switchboard(lanes, {})
        inventory = Inventory(settings.model_path, (settings.embed_model, settings.model_name))
        return cls(settings, switchboard, Catalogue(settings, switchboard, inventory), Gate.of(settings, draining),
                   draining)

    def deadline(self) -> float:
        """Return when the answer to a request that comes now has to be there, on the clock of `time.monotonic`."""
        return time.monotonic() + self.settings.request_timeout

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lanes of the configured models."""
        return self.switchboard.configured
