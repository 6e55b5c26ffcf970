"""What the writers of database servers have in common: one component for each server, cut at one instant.

A server's data is restored as a whole: its databases share logs and numbers. The component is a file group, since the
directories come and go with the databases. All of it must lie on volumes of the set: parts that were copied at
different instants may start without a word and hold different transactions.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, Protocol, TypeVar

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import (
    BackupSchema,
    ComponentType,
    FileRestoreStatus,
    Level,
    RestoreMethodType,
    SourceType,
    WriterRestore,
)
from shadowset.writers.naming import component_identity, component_path
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer
from shadowset.writers.service import Cancelled, make_way

LOG = logging.getLogger("shadowset.writer.server")
PREPARE_SHARE = 0.8  # of the time for prepare-snapshot
HOLD_SHARE = 0.5  # of the time for freeze; the rest is for other servers and the answer


FileSet = tuple[str, str, bool]


class Held(Protocol):
    """A server between prepare-snapshot and post-snapshot. One thread works with it; ``interrupt`` comes from any."""

    def facts(self) -> dict[str, str]:
        """What goes into the backup's metadata."""

    def stamp(self) -> str:
        """The backup stamp; empty without one."""

    def prepare(self, seconds: float) -> None:
        """All that would make ``hold`` long. Errors: VssError."""

    def hold(self, seconds: float, window: float) -> None:
        """From its return on the files are fit to be cut; the server must let go by itself after ``window`` seconds.

        Errors: VssError.
        """

    def release(self) -> None:
        """Goes on. Errors: VssError when the hold did not last until now, or cannot be told."""

    def interrupt(self) -> None:
        """Makes a call that hangs in another thread fail."""

    def close(self) -> None:
        """Lets go of everything, whatever the state; never fails."""


class Settings(Protocol):
    """What the configuration of every server has."""

    stop_command: list[str]
    start_command: list[str]


SettingsT = TypeVar("SettingsT", bound=Settings)


class ServerWriter(Writer, ABC, Generic[SettingsT]):
    """Protects servers, each known by its data directory."""

    source = SourceType.TRANSACTEDDB
    level = Level.BACK_END
    kind = ""
    called = "the server of"  # before a directory, in sentences
    excluded: tuple[str, ...] = ()
    backup_schema = BackupSchema.COPY
    component_flags = 0

    def __init__(self, command_seconds: float, socket_path: str = "") -> None:
        super().__init__(socket_path)
        self.command_seconds = command_seconds
        self._chosen: dict[str, list[str]] = {}
        self._parts: dict[str, list[FileSet]] = {}
        self._held: dict[str, Held] = {}
        self._guard = threading.Lock()  # of the tables alone: abort may come while another handler hangs in a server

    # --- what the writer of a kind of server says

    @abstractmethod
    def servers(self) -> dict[str, SettingsT]:
        """The servers by data directory; what cannot be found is left out with a line in the log."""

    @abstractmethod
    def settings_of(self, data: str) -> SettingsT:
        """The settings of a data directory, also when its server is lost; empty ones when it is not configured."""

    @abstractmethod
    def file_sets(self, data: str) -> list[FileSet]:
        """All files: directory, pattern, and whether directories beneath belong to it. Errors: VssError."""

    def members(self, data: str, settings: SettingsT) -> list[str]:
        """Databases that other writers may depend on. They have no files of their own, and come with their server."""
        return []

    def flags(self, data: str) -> int:
        """Bits of ComponentFlag for one server's component."""
        return self.component_flags

    def complete(self, held: Held, event: CurrentEvent) -> None:
        """The copies are made: writes into them what they lack. Errors: VssError."""

    @abstractmethod
    def process(self, data: str) -> int:
        """The process of the server that runs on a data directory; 0 when none does."""

    def takes_part(self, data: str) -> bool:
        """Whether there is somebody to come to terms with, or the files lie still."""
        return bool(self.process(data))

    @abstractmethod
    def open(self, settings: SettingsT, data: str) -> Held:
        """A session with the running server of ``data``. Errors: VssError."""

    @abstractmethod
    def recover(self, data: str, component: Component, seconds: float, cancelled: Cancelled) -> None:
        """The files are back: takes them into use, and checks them. Errors: VssError."""

    # --- backup

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(self.backup_schema)
        for data, settings in self.servers().items():
            logical_path, name = component_identity(data)
            component = metadata.add_component(
                ComponentType.FILEGROUP,
                name,
                logical_path,
                caption=f"{self.kind} {data}",
                selectable_for_restore=True,
                flags=self.flags(data),
            )
            for directory, filespec, recursive in self.file_sets(data):
                component.add_files(directory, filespec, recursive)
            for filespec in self.excluded:
                metadata.exclude_files(data, filespec)
            self.describe_members(metadata, f"{logical_path}\\{name}".strip("\\"), data, settings)

    def describe_members(self, metadata: MetadataBuilder, path: str, data: str, settings: SettingsT) -> None:
        """The components below a server's, which is at ``path``."""
        for member in self.members(data, settings):
            caption = f"database {member} of {data}"
            metadata.add_component(ComponentType.DATABASE, member, path, caption=caption, selectable=False)

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        known = self.servers()
        if event.select_components:
            chosen = [component_path(component.logical_path, component.name) for component in event.components]
        else:
            chosen = [data for data in known if event.is_path_affected(data)]
        for data in chosen:
            if data not in known:
                message = f"{data} is not among the data directories of this writer, or is gone; identify again"
                raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        self._chosen[event.session] = chosen

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Opens the sessions, and has the servers do what takes long."""
        self._let_go()
        known = self.servers()
        for data in self._chosen.get(event.session, []):
            if data not in known:
                message = f"{self.called} {data} cannot be reached any more; look at it, and try again"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
            self._parts[data] = self.file_sets(data)
            torn = {directory for directory, _, _ in self._parts[data] if event.is_path_left_out(directory)}
            if torn:
                message = f"of {data}, {', '.join(sorted(torn))} lies on no volume of the set; add its volume"
                message += ", or the copy is torn"
                event.set_failure(Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, message)
            if self.takes_part(data):
                held = self.open(known[data], data)
                with self._guard:
                    self._held[data] = held
                held.prepare(event.remaining * PREPARE_SHARE)

    def on_freeze(self, event: CurrentEvent) -> None:
        held = self._now()
        for data in self._parts:
            if data in held:
                held[data].hold(event.remaining * HOLD_SHARE, event.remaining)
            elif self.process(data):
                message = f"{self.called} {data} was started amid the creation; try again"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def on_thaw(self, event: CurrentEvent) -> None:
        for data, held in self._now().items():
            try:
                held.release()
            except VssError as error:
                message = f"{self.called} {data} was lost amid the creation ({error.message})"
                event.set_failure(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        for data, parts in self._parts.items():
            if self.file_sets(data) != parts:
                message = f"the places of {data} changed amid the creation; identify again and try again"
                event.set_failure(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        now = self._now()
        for each in now.values():
            self.complete(each, event)
        for component in event.components:
            data = component_path(component.logical_path, component.name)
            if data in self._parts:
                held = now.get(data)
                facts = held.facts() if held is not None else {"method": "cold"}
                component.backup_metadata = json.dumps({"data_directory": data, **facts})
                component.backup_stamp = held.stamp() if held is not None else ""
                if why := facts.get("why"):
                    event.downgrade(component, why)
        self._let_go()

    def on_abort(self, event: CurrentEvent) -> None:
        for held in self._now().values():
            held.interrupt()
        self._let_go()
        self._chosen.pop(event.session, None)

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        self._chosen.pop(event.session, None)

    def _now(self) -> dict[str, Held]:
        with self._guard:
            return dict(self._held)

    def _let_go(self) -> None:
        with self._guard:
            held, self._held, self._parts = self._held, {}, {}
        for each in held.values():
            each.close()

    # --- restore

    def on_pre_restore(self, event: CurrentEvent) -> None:
        for component in _selected(event):
            try:
                self.make_way(component, min(self.command_seconds, event.remaining), lambda: event.cancelled)
            except VssError as error:
                component.pre_restore_failure_message = error.message
                raise

    def make_way(self, component: Component, seconds: float, cancelled: Cancelled) -> None:
        """Sees that nobody uses the files that a component's restore replaces. Errors: VssError."""
        data = component_path(component.logical_path, component.name)
        make_way(data, partial(self.process, data), self.settings_of(data).stop_command, seconds, cancelled)

    def on_post_restore(self, event: CurrentEvent) -> None:
        for component in _selected(event):
            if component.additional_restores:
                LOG.info("%s waits for the next backup of its chain", component.full_path)
            elif component.file_restore_status == FileRestoreStatus.ALL:
                self._take_over(event, component)

    def _take_over(self, event: CurrentEvent, component: Component) -> None:
        data = component_path(component.logical_path, component.name)
        try:
            self.recover(data, component, min(self.command_seconds, event.remaining), lambda: event.cancelled)
        except VssError as error:
            component.post_restore_failure_message = error.message
            component.failure.code = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
            component.failure.message = error.message
            event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, error.message)


def found_servers(
    settings: Iterable[SettingsT], data_of: Callable[[SettingsT], str], file_sets: Callable[[str], list[FileSet]]
) -> dict[str, SettingsT]:
    """The servers whose data can be found and be a component; the others are left out with a line in the log."""
    found: dict[str, SettingsT] = {}
    for each in settings:
        try:
            data = os.path.realpath(data_of(each))
            component_identity(data)
            file_sets(data)
        except VssError as error:
            LOG.warning("%s: it is left out", error.message)
        else:
            found[data] = each
    return found


def _selected(event: CurrentEvent) -> list[Component]:
    return [component for component in event.components if component.selected_for_restore]
