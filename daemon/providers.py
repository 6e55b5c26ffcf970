"""The registered providers: the built-in one, and those that installed packages offer as entry points.

A provider that cannot be loaded or started is reported and left out; it stops nothing else. Which of those offered are
left out on purpose stands in the catalogue.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.process import in_thread
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.provider import GROUP, Provider, VolumeFacts, in_order

log = logging.getLogger(__name__)

START_S = 20.0
T = TypeVar("T")
EventCall = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Lodging:
    """Implements ``ProviderHost`` for the provider of one entry point."""

    name: str
    paths: Paths
    record: EventCall

    @property
    def runtime(self) -> str:
        """See ``ProviderHost``."""
        return _directory(self.paths.provider_runtime(self.name), 0o700)

    @property
    def state(self) -> str:
        """See ``ProviderHost``."""
        return _directory(self.paths.provider_state(self.name), 0o700)

    @property
    def trees(self) -> str:
        """See ``ProviderHost``."""
        return _directory(self.paths.trees, 0o755)

    def event(self, name: str, message: str, volume: str = "") -> None:
        """See ``ProviderHost``."""
        self.record(name, message, volume)

    def in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        """See ``ProviderHost``."""
        return in_thread(work)


def _directory(path: str, mode: int) -> str:
    os.makedirs(path, mode=mode, exist_ok=True)
    return path


class Providers:
    """Providers by id. ``builtin`` serves the protected volumes."""

    def __init__(self, paths: Paths, catalogue: Catalogue, builtin: Provider, event: EventCall) -> None:
        self.builtin = builtin
        self._paths = paths
        self._catalogue = catalogue
        self._event = event
        self._table: dict[str, Provider] = {builtin.info.provider_id: builtin}
        self._names: dict[str, str] = {builtin.info.provider_id: ""}

    def __iter__(self) -> Iterator[Provider]:
        return iter(list(self._table.values()))

    def get(self, provider_id: str) -> Provider:
        """Errors: VSS_E_PROVIDER_NOT_REGISTERED."""
        found = self._table.get(provider_id.strip("{}").lower())
        if found is None:
            known = ", ".join(self._table)
            raise VssError(
                Code.VSS_E_PROVIDER_NOT_REGISTERED, f"there is no provider {provider_id[:60]!r} (known: {known})"
            )
        return found

    async def choose(self, volume: str, provider_id: str = "") -> tuple[Provider, VolumeFacts] | None:
        """The volume that a name, a device or a path on it means, and whose it is; None when no provider knows it.

        A protected volume stays with the provider it was given to; others are asked in VSS's order.
        """
        others = in_order([each for each in self if each is not self.builtin])
        for provider in [self.get(provider_id)] if provider_id else [self.builtin, *others]:
            facts = await provider.find(volume)
            if facts:
                return provider, facts
        return None

    # ---- registration ----

    async def start(self) -> None:
        """Register all that are offered and not left out."""
        await self._start(self.builtin)
        for name, point in offered().items():
            if not self._catalogue.setting(_left_out(name)):
                try:
                    await self._load(name, point)
                except VssError as error:
                    self._event("provider-failed", error.message, "")

    async def stop(self) -> None:
        """End all of them."""
        for provider in self:
            try:
                await asyncio.wait_for(provider.stop(), START_S)
            except Exception as error:
                log.warning("provider %s did not stop cleanly: %s", provider.info.name, error)

    async def register(self, name: str) -> Provider:
        """Take in the provider of an installed entry point. Errors: VSS_E_PROVIDER_ALREADY_REGISTERED, not found."""
        point = offered().get(name)
        if point is None:
            known = ", ".join(offered()) or "none"
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND,
                f"no installed package offers a provider {name[:60]!r} (offered: {known}); install it first",
            )
        if name in self._names.values():
            raise VssError(Code.VSS_E_PROVIDER_ALREADY_REGISTERED, f"provider {name} is already registered")
        provider = await self._load(name, point)
        self._catalogue.set_setting(_left_out(name), "")
        self._event("provider-registered", f"provider {name} ({provider.info.name}) was registered", "")
        return provider

    async def unregister(self, provider_id: str) -> None:
        """Leave a provider out from now on. Errors: VSS_E_PROVIDER_NOT_REGISTERED, VSS_E_PROVIDER_IN_USE."""
        provider = self.get(provider_id)
        name = self._names[provider.info.provider_id]
        all_copies = [*self._catalogue.snapshots(), *(row.copy for row in self._catalogue.aside())]
        copies = sum(copy.provider_id == provider.info.provider_id for copy in all_copies)
        if copies or provider is self.builtin:
            why = f"has {copies} shadow copies; delete them first" if copies else "is the built-in one and stays"
            raise VssError(Code.VSS_E_PROVIDER_IN_USE, f"provider {provider.info.name} {why}")
        del self._table[provider.info.provider_id], self._names[provider.info.provider_id]
        await provider.stop()
        self._catalogue.set_setting(_left_out(name), "yes")
        self._event("provider-unregistered", f"provider {name} ({provider.info.name}) is left out from now on", "")

    async def _load(self, name: str, point: EntryPoint) -> Provider:
        try:
            provider: Provider = point.load()(Lodging(name, self._paths, self._event))
            await self._enter(name, provider)
        except VssError:
            raise
        except Exception as error:
            log.debug("provider %s", name, exc_info=True)
            raise VssError(
                Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
                f"provider {name} ({point.value}) cannot be used: {type(error).__name__}: {error}; "
                f"update or remove its package",
            ) from None
        return provider

    async def _enter(self, name: str, provider: Provider) -> None:
        provider_id = provider.info.provider_id
        if provider_id in self._table:
            taken = self._table[provider_id].info.name
            raise VssError(
                Code.VSS_E_PROVIDER_ALREADY_REGISTERED, f"provider {name} has the id of {taken}, {provider_id}"
            )
        await self._start(provider)
        self._table[provider_id], self._names[provider_id] = provider, name

    async def _start(self, provider: Provider) -> None:
        known = [copy for copy in self._catalogue.snapshots() if copy.provider_id == provider.info.provider_id]
        await asyncio.wait_for(provider.start(known), START_S)


def offered() -> dict[str, EntryPoint]:
    """Entry points of installed packages by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda each: each.name)}


def _left_out(name: str) -> str:
    return f"provider-left-out:{name}"
