"""ALLOWED_ORIGINS: which web pages and apps that are made of web pages may call."""

from __future__ import annotations

from dataclasses import dataclass

from mayfly.settings import ANY, NO_ORIGIN, Settings


@dataclass(frozen=True)
class Origins:
    """The origins that are allowed.

    Attributes:
        listed: in lower case; the star is every origin, `scheme://*` every one of a scheme.
    """

    listed: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Origins:
        """Take them from ALLOWED_ORIGINS."""
        return cls(frozenset(settings.allowed_origins))

    def named(self, origin: str) -> bool:
        """Tell whether an origin is allowed by more than the star."""
        origin = origin.lower()
        scheme, separator, _ = origin.partition("://")
        return origin != ANY and (origin in self.listed or (bool(separator) and f"{scheme}://{ANY}" in self.listed))

    def allowed(self, origin: str) -> bool:
        """Tell whether an origin is allowed."""
        return ANY in self.listed or self.named(origin)

    def known(self, origin: str) -> bool:
        """Tell whether an origin is allowed and can't be another site's.

        The star would let any page that a browser on this machine shows use the service without a key, and so would
        `null`, which any site sends from a sandboxed frame.
        """
        return origin.lower() != NO_ORIGIN and self.named(origin)
