"""What a diskshadow session was told: context, options, volumes, writers to verify and exclude. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shadowset.requester.cli import UsageError
from shadowset.requester.windows.creation import Wish
from shadowset.vss.enums import Attribute, BackupType, Context
from shadowset.vss.selection import Selector

CONTEXTS = {
    ("clientaccessible",): Context.CLIENT_ACCESSIBLE,
    ("persistent",): Context.APP_ROLLBACK,
    ("persistent", "nowriters"): Context.NAS_ROLLBACK,
    ("volatile",): Context.BACKUP,
    ("volatile", "nowriters"): Context.FILE_SHARE_BACKUP,
}
OPTIONS = {
    "differential": Attribute.DIFFERENTIAL,
    "plex": Attribute.PLEX,
    "transportable": Attribute.TRANSPORTABLE,
    "rollbackrecover": Attribute.ROLLBACK_RECOVERY,
    "txfrecover": Attribute.TXF_RECOVERY,
    "noautorecover": Attribute.NO_AUTORECOVERY,
}
_EXCLUSIVE = (
    ("differential", "plex"),
    ("noautorecover", "rollbackrecover"),
    ("noautorecover", "txfrecover"),
)


class Volume(NamedTuple):
    """A volume of the set to come, and the alias that its copy gets."""

    volume: str
    provider: str
    alias: str


@dataclass
class Settings:
    """As they stand; a new session has a volatile context with writers."""

    context: tuple[str, ...] = ("volatile",)
    options: tuple[str, ...] = ()
    metadata: str = ""
    verbose: bool = False
    full_backup: bool = False
    volumes: list[Volume] = field(default_factory=list)
    required: list[Selector] = field(default_factory=list)
    excluded: list[Selector] = field(default_factory=list)

    def set_context(self, given: Sequence[str]) -> None:
        """``clientaccessible | persistent [nowriters] | volatile [nowriters]``. Errors: UsageError."""
        words = tuple(word.lower() for word in given)
        if words not in CONTEXTS:
            raise UsageError("SET CONTEXT takes CLIENTACCESSIBLE, PERSISTENT [NOWRITERS] or VOLATILE [NOWRITERS]")
        self.context = words

    def set_option(self, given: Sequence[str]) -> None:
        """Attributes of the copies to come. Errors: UsageError for an unknown one, or two that exclude each other."""
        words = tuple(word.lower() for word in given)
        unknown = [word for word in words if word not in OPTIONS]
        if unknown or not words:
            raise UsageError(f"SET OPTION takes {', '.join(OPTIONS).upper()}; not {' '.join(unknown) or 'nothing'}")
        for one, other in _EXCLUSIVE:
            if one in words and other in words:
                raise UsageError(f"{one.upper()} and {other.upper()} exclude each other")
        self.options = words

    def add_volume(self, given: Sequence[str]) -> Volume:
        """``VOLUME [PROVIDER ID] [ALIAS NAME]``. Errors: UsageError."""
        volume, rest = given[0], list(given[1:])
        named: dict[str, str] = {}
        while rest:
            word = rest.pop(0).lower()
            if word not in ("provider", "alias") or word in named or not rest:
                raise UsageError("ADD VOLUME takes a volume, then PROVIDER ID and ALIAS NAME where wanted")
            named[word] = rest.pop(0)
        if any(known.volume == volume for known in self.volumes):
            raise UsageError(f"volume {volume} is in the set already")
        self.volumes.append(Volume(volume, named.get("provider", ""), named.get("alias", "")))
        return self.volumes[-1]

    def wish(self) -> Wish:
        """The set that these settings describe. Errors: UsageError when there is no volume."""
        if not self.volumes:
            raise UsageError("no volume is in the set; ADD VOLUME first")
        return Wish(
            volumes=tuple((volume.volume, volume.provider) for volume in self.volumes),
            context=self.context_bits,
            backup_type=BackupType.FULL if self.full_backup else BackupType.COPY,
            required=tuple(self.required),
            excluded=tuple(self.excluded),
        )

    @property
    def context_bits(self) -> int:
        """Context and options together."""
        bits = int(CONTEXTS[self.context])
        for option in self.options:
            bits |= OPTIONS[option]
        return bits

    def text(self) -> str:
        """All settings, as SET shows them."""
        volumes = ", ".join(volume.volume for volume in self.volumes)
        lines = [
            f"Context: {' '.join(self.context).upper()}",
            f"Options: {' '.join(self.options).upper() or 'none'}",
            f"Metadata file: {self.metadata or 'none'}",
            f"Verbose: {'ON' if self.verbose else 'OFF'}",
            f"Backup: {'full' if self.full_backup else 'copy'}",
            f"Volumes: {volumes or 'none'}",
        ]
        lines += [f"Writer to verify: {selector}" for selector in self.required]
        lines += [f"Writer to exclude: {selector}" for selector in self.excluded]
        return "\n".join(lines)
