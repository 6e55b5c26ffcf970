"""The QEMU writer: one component for each guest, whose own file systems are frozen over the cut by its agent."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import (
    ALL_BACKUPS,
    BackupSchema,
    ComponentType,
    FileRestoreStatus,
    RestoreMethodType,
    WriterRestore,
)
from shadowset.writers.configured import ConfiguredWriter
from shadowset.writers.guard import Guard
from shadowset.writers.metadata_builder import ComponentBuilder
from shadowset.writers.qemu import domains, processes
from shadowset.writers.qemu.guard import Guarded
from shadowset.writers.qemu.guest import LOOK_SECONDS, HeldGuest, look
from shadowset.writers.qemu.reach import Seen
from shadowset.writers.qemu.restore import check_images, define_again, turn_off, turn_on
from shadowset.writers.qemu.settings import GuestSettings, Settings
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder

LOG = logging.getLogger("shadowset.writer.qemu")
QEMU_WRITER_ID = "54711e69-78ea-44b5-8e8c-1affec65b574"
QEMU_WRITER_NAME = "QEMU Writer"
LOGICAL_PATH = "guests"
GUARD = "shadowset.writers.qemu.guard"
GUARD_MARGIN_SECONDS = 2.0
FREEZE_SHARE = 0.5  # of the time for freeze; what is left is for taking back and for thawing
READ_LIVE = 0x0F  # files that do not change while the guest runs need no shadow copy
AT_ONCE = 16
CHECK_SHARE = 0.5  # of the time for post-restore


class QemuWriter(ConfiguredWriter[Settings, GuestSettings]):
    """Protects the guests of ``settings``, or those that run when none is named."""

    writer_id = QEMU_WRITER_ID
    name = QEMU_WRITER_NAME
    noun = "guest"

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(settings, socket_path)
        self._guests: list[HeldGuest] = []
        self._guard: Guard | None = None

    def things(self) -> dict[str, GuestSettings]:
        if self.settings.guest:
            return {guest.name: guest for guest in self.settings.guest}
        without_agent = self.settings.without_agent
        known = {guest.name: guest for guest in domains.discover(self.settings.libvirt, without_agent, LOOK_SECONDS)}
        return {guest.name: guest for guest in processes.discover(without_agent, known=known)} | known

    def is_affected(self, event: CurrentEvent, thing: GuestSettings) -> bool:
        """Whether a disk of the guest is on a volume of the set."""
        names = {volume.name for volume in event.volumes}
        disks = look(thing).disks
        return any(
            (disk.kind == "volume" and disk.place in names)
            or (disk.kind == "file" and event.is_path_affected(disk.place))
            for disk in disks
        )

    # --- backup

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(BackupSchema.COPY)
        for name, guest in self.things().items():
            try:
                seen = look(guest)
            except VssError as error:
                LOG.warning("%s: the guest is left out", error.message)
                continue
            if not self.settings.guest and (lost := _lost(seen)):
                LOG.warning("the guest %s is off, and %s is not there: it is left out", name, lost)
                continue
            if seen.gone:
                LOG.warning("libvirt at %s knows no guest %s: it is left out", guest.libvirt, name)
                continue
            caption = ", ".join([f"QEMU guest {name}", *(disk.text() for disk in seen.disks)])
            component = metadata.add_component(
                ComponentType.FILEGROUP, name, LOGICAL_PATH, caption=caption, selectable_for_restore=True
            )
            _add_files(component, guest, seen)

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Sees whether the guests can be frozen, and starts the guard, while nothing is frozen yet."""
        self._let_go(event.remaining)
        self._guests = [HeldGuest(settings) for settings in self.chosen(event)]
        self._raise_first(self._each(lambda guest: guest.prepare(event.remaining * FREEZE_SHARE)))
        for guest in self._guests:
            self._check_disks(event, guest)
        guarded = [Guarded(g.settings, g.method == "pause") for g in self._guests if g.method in ("agent", "pause")]
        if guarded:
            self._guard = Guard(GUARD, msgspec.json.encode(guarded))

    def _check_disks(self, event: CurrentEvent, guest: HeldGuest) -> None:
        name, names = guest.settings.name, {volume.name for volume in event.volumes}
        written = [disk for disk in guest.seen.disks if not disk.read_only]
        away = [disk for disk in written if disk.kind == "volume" and disk.place not in names]
        invisible = [disk.text() for disk in written if disk.kind == "invisible"]
        if event.select_components:  # a component has files; a volume without any is in the set by chance
            invisible += [disk.text() for disk in away]
            away = []
        if invisible and guest.settings.invisible_disks == "refuse":
            message = f"the guest {name} has disks that no copy shows ({'; '.join(invisible)}); take them away from it"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        if invisible:
            event.log(f"the guest {name} has disks that no copy shows: {'; '.join(invisible)}")
        away += [disk for disk in written if disk.kind == "file" and event.is_path_left_out(disk.place)]
        if away:
            torn = "; ".join(disk.text() for disk in away)
            message = f"of the guest {name}, {torn} is on no volume of the set; add it, or the copy is torn"
            event.set_failure(Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, message)

    def on_freeze(self, event: CurrentEvent) -> None:
        if self._guard is not None:
            self._guard.limit(self.freeze_timeout_ms / 1000 + GUARD_MARGIN_SECONDS)
        self._raise_first(self._each(lambda guest: guest.freeze(event.remaining * FREEZE_SHARE)))

    def on_thaw(self, event: CurrentEvent) -> None:
        problems = self._thaw_all(event.remaining)
        if problems:
            event.set_failure(problems[0].code, problems[0].message)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        held = {guest.settings.name: guest for guest in self._guests}
        for component in event.components:
            guest = held.get(component.name)
            if guest is not None:
                component.backup_metadata = json.dumps(guest.facts())
                if guest.why:
                    event.downgrade(component, guest.why)
        self._let_go(event.remaining)

    def on_abort(self, event: CurrentEvent) -> None:
        for guest in self._guests:
            guest.give_up()
        self._thaw_all(event.remaining)
        super().on_abort(event)

    def _each(self, call: Callable[[HeldGuest], None]) -> list[VssError]:
        """All guests at the same time; what went wrong."""

        def problem(guest: HeldGuest) -> VssError | None:
            try:
                call(guest)
            except VssError as error:
                return error
            return None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [error for error in pool.map(problem, self._guests) if error is not None]

    def _raise_first(self, problems: list[VssError]) -> None:
        for other in problems[1:]:
            LOG.warning("%s", other.message)
        if problems:
            raise problems[0]

    def _thaw_all(self, seconds: float) -> list[VssError]:
        """Thaws; whom that fails with, the guard goes on with."""
        problems = self._each(lambda guest: guest.thaw(min(guest.settings.seconds, seconds)))
        guard, self._guard = self._guard, None
        if guard is not None and any(guest.held for guest in self._guests):
            guard.take_over()
        elif guard is not None:
            guard.dismiss()
        return problems

    def _let_go(self, seconds: float) -> None:
        self._thaw_all(seconds)
        self._guests = []

    # --- restore

    def on_pre_restore(self, event: CurrentEvent) -> None:
        """Sees that the guests are off."""
        known = self.things()
        for component in _selected(event):
            if component.name in known:
                try:
                    turn_off(known[component.name], self._seconds(event), lambda: event.cancelled)
                except VssError as error:
                    component.pre_restore_failure_message = error.message
                    raise

    def on_post_restore(self, event: CurrentEvent) -> None:
        """Checks the images, defines guests that libvirt does not know, and starts those that have a command for it."""
        configured = {guest.name: guest for guest in self.settings.guest}
        for component in _selected(event):
            if component.file_restore_status == FileRestoreStatus.ALL:
                try:
                    check_images(component, event.remaining * CHECK_SHARE)
                    guest = configured.get(component.name)
                    define_again(component, guest.libvirt if guest else self.settings.libvirt)
                    if guest is not None and guest.start_command:
                        turn_on(guest, self._seconds(event), lambda: event.cancelled)
                except VssError as error:
                    component.post_restore_failure_message = error.message
                    component.failure.code, component.failure.message = int(error.code), error.message
                    event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, error.message)

    def _seconds(self, event: CurrentEvent) -> float:
        return min(self.settings.command_seconds, event.remaining)


def _lost(seen: Seen) -> str:
    """A disk of a guest that is off for good: only its definition is left. Empty when there is none."""
    places = [disk.place for disk in seen.disks if disk.kind == "file"] if seen.state == "off" else []
    return next((place for place in places if not os.path.exists(place)), "")


def _add_files(component: ComponentBuilder, guest: GuestSettings, seen: Seen) -> None:
    """Disks that the guest writes come from the copy; what lies beneath them may be read live."""
    places = {disk.place: ALL_BACKUPS for disk in seen.disks if disk.kind == "file" and not disk.read_only}
    quiet = [disk.place for disk in seen.disks if disk.kind == "file"]
    quiet += [path for disk in seen.disks for path in disk.backing]
    masks = ALL_BACKUPS if seen.state == "off" else READ_LIVE
    for path in [*quiet, *seen.files, *guest.files]:
        places.setdefault(os.path.realpath(path), masks)
    for path, mask in places.items():
        if os.path.isdir(path):
            component.add_files(path, "*", recursive=True, mask=mask)
        else:
            component.add_files(os.path.dirname(path), os.path.basename(path), mask=mask)


def _selected(event: CurrentEvent) -> list[Component]:
    return [component for component in event.components if component.selected_for_restore]
