"""What writers of named things have in common, each of which is one component: hooks, guests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Level, SourceType
from shadowset.writers.sdk import CurrentEvent, Writer
from shadowset.writers.server_settings import WriterSettings

SettingsT = TypeVar("SettingsT", bound=WriterSettings)
ThingT = TypeVar("ThingT")


class ConfiguredWriter(Writer, ABC, Generic[SettingsT, ThingT]):
    """Protects the things of ``settings``, or what it finds when none is named; ``noun`` is what one is called."""

    source = SourceType.OTHER
    level = Level.FRONT_END
    noun = ""

    def __init__(self, settings: SettingsT, socket_path: str = "") -> None:
        super().__init__(socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self._chosen: dict[str, list[ThingT]] = {}

    @abstractmethod
    def things(self) -> dict[str, ThingT]:
        """Those that there are now, by the names of their components."""

    def is_affected(self, event: CurrentEvent, thing: ThingT) -> bool:
        """Whether a thing belongs to a set for which nobody has chosen components. Errors: VssError."""
        return True

    def chosen(self, event: CurrentEvent) -> list[ThingT]:
        """Those that take part in the session."""
        return self._chosen.get(event.session, [])

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        known = self.things()
        if not event.select_components:
            self._chosen[event.session] = [thing for thing in known.values() if self.is_affected(event, thing)]
            return
        missing = [component.name for component in event.components if component.name not in known]
        if missing:
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND, f"there is no {self.noun} {missing[0]} any more; identify again"
            )
        self._chosen[event.session] = [known[component.name] for component in event.components]

    def on_abort(self, event: CurrentEvent) -> None:
        self._chosen.pop(event.session, None)

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        self._chosen.pop(event.session, None)
