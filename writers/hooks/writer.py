"""The hook writer: one component for each set of scripts; the scripts freeze and thaw, and the writer sees to it."""

from __future__ import annotations

import logging
import os
import threading

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupSchema, ComponentType
from shadowset.writers.configured import ConfiguredWriter
from shadowset.writers.guard import Guard
from shadowset.writers.hooks.runner import freeze, thaw
from shadowset.writers.hooks.scripts import Step, steps_of
from shadowset.writers.hooks.settings import Hook, Settings, discover
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder

LOG = logging.getLogger("shadowset.writer.hooks")
HOOK_WRITER_ID = "bb270b84-107f-4b15-b88b-b64f69c3623f"
HOOK_WRITER_NAME = "Hook Script Writer"
LOGICAL_PATH = "hooks"
GUARD = "shadowset.writers.hooks.guard"
FREEZE_SHARE = 0.7  # of the freeze window; what is left is for taking back and for thawing


class HookWriter(ConfiguredWriter[Settings, Hook]):
    """Runs the hooks of ``settings``, or those in the usual places when none is named."""

    writer_id = HOOK_WRITER_ID
    name = HOOK_WRITER_NAME
    noun = "hook"

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(settings, socket_path)
        self._ready: list[tuple[Hook, list[Step]]] = []
        self._frozen: list[tuple[Hook, list[Step]]] = []
        self._crash_consistent: dict[str, str] = {}
        self._guard: Guard | None = None
        self._thawing = threading.RLock()  # abort may come while a script of freeze hangs

    def things(self) -> dict[str, Hook]:
        return {hook.title: hook for hook in self.settings.hook or discover()}

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_backup_schema(BackupSchema.COPY)
        for hook in self.things().values():
            component = metadata.add_component(
                ComponentType.FILEGROUP,
                hook.title,
                LOGICAL_PATH,
                caption=f"{hook.kind} scripts {hook.place}".rstrip(),
                selectable_for_restore=bool(hook.files),
            )
            for path in hook.files:
                component.add_files(os.path.realpath(path), "*", recursive=True)

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Looks at the scripts and starts the guard, while nothing is frozen yet."""
        self._let_go()
        concerned = [
            hook
            for hook in self.chosen(event)
            if not hook.files or any(not event.is_path_left_out(os.path.realpath(path)) for path in hook.files)
        ]
        self._ready = [(hook, steps_of(hook)) for hook in concerned]
        self._crash_consistent = {}
        if concerned:
            self._guard = Guard(GUARD, msgspec.json.encode(concerned))

    def on_freeze(self, event: CurrentEvent) -> None:
        for hook, steps in self._ready:
            with self._thawing:
                if event.cancelled:
                    raise VssError(Code.VSS_E_WRITERERROR_TIMEOUT, "the hooks took longer than they may; shorten them")
                self._frozen.append((hook, steps))
            try:
                freeze(hook, steps, event.remaining * FREEZE_SHARE)
            except VssError as error:
                with self._thawing:
                    self._frozen = [(other, them) for other, them in self._frozen if other is not hook]
                if hook.required:
                    raise
                LOG.warning("%s: the copy of %s is crash-consistent", error.message, hook.title)
                self._crash_consistent[hook.title] = error.message
            self._check_still_wanted(hook, steps)

    def _check_still_wanted(self, hook: Hook, steps: list[Step]) -> None:
        """An abort that came while the scripts ran has thawed already, maybe before the last of them froze."""
        with self._thawing:
            if hook.title in self._crash_consistent or any(other is hook for other, _ in self._frozen):
                return
            thaw(hook, steps)
        raise VssError(Code.VSS_E_WRITERERROR_TIMEOUT, f"the hook {hook.title} was aborted while it froze; try again")

    def on_thaw(self, event: CurrentEvent) -> None:
        problems = self._thaw_all()
        if problems:
            event.set_failure(Code.VSS_E_WRITERERROR_NONRETRYABLE, problems[0])

    def on_abort(self, event: CurrentEvent) -> None:
        self._let_go()
        super().on_abort(event)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        """Says of each component how far its scripts came."""
        for component in event.components:
            reason = self._crash_consistent.get(component.name, "")
            component.backup_metadata = f"crash-consistent: {reason}" if reason else "frozen"
            if reason:
                event.downgrade(component, reason)
        self._let_go()

    def _thaw_all(self) -> list[str]:
        with self._thawing:
            frozen, self._frozen = self._frozen, []
            problems: list[str] = []
            for hook, steps in reversed(frozen):
                problems += thaw(hook, steps)
            if self._guard is not None:
                self._guard.dismiss()
                self._guard = None
            return problems

    def _let_go(self) -> None:
        self._thaw_all()
        self._ready = []
