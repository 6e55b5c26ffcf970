"""How long each step may take. Values are in milliseconds and can be set: ``--limit NAME=VALUE``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import WriterEvent


@dataclass(frozen=True)
class Limits:
    """The coordinator's time-outs and caps; ``writer_windows`` overrides the freeze window of single writer classes.

    ``creation_idle_ms`` is how long a requester may make no call between start-snapshot-set and do-snapshot-set, when
    others may be waiting for its volumes; then its backup is aborted. ``exit_idle_ms`` is how long the daemon stays
    without a client under socket activation; 0, which cannot be set, is for ever. ``release_wait_ms`` is how
    long an auto-release copy may outlive its session while it is read. ``deletion_grace_ms`` is how long deleted
    copies can be taken back; 0, which cannot be set, is not at all. ``sets_at_once`` is how many sets
    that share nothing are made side by side.
    """

    identify_ms: int = 30_000
    prepare_backup_ms: int = 600_000
    prepare_snapshot_ms: int = 300_000
    freeze_window_ms: int = 60_000
    flush_ms: int = 300_000
    frozen_ms: int = 20_000
    hold_ms: int = 10_000
    thaw_ms: int = 60_000
    post_snapshot_ms: int = 600_000
    abort_ms: int = 30_000
    backup_complete_ms: int = 600_000
    backup_shutdown_ms: int = 30_000
    restore_ms: int = 3_600_000
    provider_ms: int = 30_000
    command_ms: int = 60_000
    hello_ms: int = 10_000
    creation_idle_ms: int = 120_000
    exit_idle_ms: int = 0
    release_wait_ms: int = 3_600_000
    sessions: int = 64
    deletion_grace_ms: int = 0
    sets_at_once: int = 8
    volumes_per_set: int = 64
    writer_windows: dict[str, int] = field(default_factory=dict)

    def of(self, event: WriterEvent) -> int:
        """The deadline of an event other than freeze, whose window depends on the writer."""
        if event in (WriterEvent.PRE_RESTORE, WriterEvent.POST_RESTORE):
            return self.restore_ms
        name = "freeze_window" if event is WriterEvent.FREEZE else event.value.replace("-", "_")
        value: int = getattr(self, f"{name}_ms")
        return value

    def window(self, writer_id: str, *wishes: int) -> int:
        """A writer's longest time between freeze and thaw: the administrator's word, else the smallest wish."""
        own = self.writer_windows.get(writer_id)
        return own if own is not None else min([self.freeze_window_ms, *(wish for wish in wishes if wish > 0)])

    @classmethod
    def names(cls) -> list[str]:
        """Of the limits that can be set, in alphabetical order."""
        return sorted(each.name for each in fields(cls) if each.name != "writer_windows")

    @classmethod
    def from_options(cls, limits: Iterable[str], windows: Iterable[str] = ()) -> Limits:
        """From ``NAME=VALUE`` and ``WRITER_ID=MILLISECONDS``; a bad one is refused with a sentence that names it."""
        values = dict(_pair(option) for option in limits)
        for name in values:
            if name not in cls.names():
                raise VssError(Code.E_INVALIDARG, f"there is no limit {name!r}; known are {', '.join(cls.names())}")
        own = {name.lower(): value for name, value in map(_pair, windows)}
        return replace(cls(), writer_windows=own, **values)


def _pair(option: str) -> tuple[str, int]:
    name, equals, text = option.partition("=")
    if not equals or not text.isdecimal() or int(text) == 0:
        raise VssError(Code.E_INVALIDARG, f"{option!r} is not NAME=VALUE with a whole number above zero")
    return name.strip(), int(text)
