"""Three writers in one process, as three ways to restore need them: users' files, onto a new machine, all as it was."""

from __future__ import annotations

import json
import logging
import os

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import (
    ALL_BACKUPS,
    BackupSchema,
    ComponentType,
    FileRestoreStatus,
    Level,
    RestoreMethodType,
    UsageType,
    WriterRestore,
)
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer
from shadowset.writers.system.layout import Reports, report
from shadowset.writers.system.locks import Locks
from shadowset.writers.system.settings import Settings
from shadowset.writers.system.tree import LOCKS, FileSets, homes, parts_of

LOG = logging.getLogger("shadowset.writer.system")
READ_LIVE = 0x0F
LOCK_SHARE = 0.8
PATH = "system"
VOLATILE = ("/var/lib/systemd/random-seed", "/var/lib/systemd/coredump")


class SystemPart(Writer):
    """What the three have in common: the tree and how its files are told."""

    level = Level.SYSTEM

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms

    def add(self, metadata: MetadataBuilder, name: str, path: str, files: FileSets, caption: str = "") -> None:
        """A component with files of the system."""
        component = metadata.add_component(
            ComponentType.FILEGROUP, name, path, caption=caption or f"{name} of {self.settings.root}",
            selectable_for_restore=True,
        )  # fmt: skip
        for directory, filespec, recursive in files:
            mask = READ_LIVE if self.settings.read_live else ALL_BACKUPS
            component.add_files(self.settings.place(directory), filespec, recursive, mask=mask)

    def add_reports(self, metadata: MetadataBuilder, name: str) -> None:
        """The component of the files that this writer itself makes; they are written before the cut and stay."""
        component = metadata.add_component(
            ComponentType.FILEGROUP, name, PATH, caption=f"{name} as reported by their tools",
            selectable_for_restore=True,
        )  # fmt: skip
        component.add_files(self.reports_in(name), "*", mask=READ_LIVE)

    def reports_in(self, name: str) -> str:
        """Where those files are."""
        return self.settings.place(f"{self.settings.reports}/{name.replace(' ', '-')}")


class SystemWriter(SystemPart):
    """Packages, accounts, configuration, units, software and state; package managers wait over the cut."""

    writer_id = "a449489c-0566-43b0-aecd-a6527575fdd4"
    name = "System Writer"
    usage = UsageType.BOOTABLESYSTEMSTATE
    reports = "package selections"

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(settings, socket_path)
        self._locks = Locks([settings.place(path) for path in LOCKS])
        self._packages = 0

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(
            RestoreMethodType.RESTORE_AT_REBOOT_IF_CANNOT_REPLACE, WriterRestore.ALWAYS, reboot_required=True
        )
        metadata.set_backup_schema(BackupSchema.COPY)
        parts = parts_of(self.settings.root, self.settings.not_state)
        for name, files in parts.state.items():
            self.add(metadata, name, PATH, files)
        self.add_reports(metadata, self.reports)
        for path in parts.excluded:
            metadata.exclude_files(self.settings.place(path), "*", recursive=True)
        for path in VOLATILE:
            directory, name = os.path.split(self.settings.place(path))
            metadata.exclude_files(directory, name)

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Package managers and account tools come to rest here, and wait from now on."""
        self._locks.release()
        self._locks.take(event.remaining * LOCK_SHARE, lambda: event.cancelled)
        self._report()

    def _report(self) -> None:
        """What is installed, in the words that install it again."""
        reports = Reports(self.reports_in(self.reports), self.settings.command_seconds)
        admin = self.settings.place("/var/lib/dpkg")
        if os.path.isdir(admin):
            selections = reports.ask("dpkg", f"--admindir={admin}", "--get-selections")
            self._packages = len(selections.splitlines())
            reports.save("dpkg-selections.txt", selections)
            query = "${Package}:${Architecture}=${Version}\\n"
            reports.save("dpkg-versions.txt", reports.ask("dpkg-query", f"--admindir={admin}", "-W", "-f", query))
        elif os.path.isdir(self.settings.place("/var/lib/rpm")):
            names = reports.ask("rpm", "--root", self.settings.root, "-qa")
            self._packages = len(names.splitlines())
            reports.save("rpm-packages.txt", names)

    def on_thaw(self, event: CurrentEvent) -> None:
        if not self.settings.read_live:
            self._locks.release()

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        for component in event.components:
            component.backup_metadata = json.dumps({"root": self.settings.root, "packages": self._packages})

    def on_abort(self, event: CurrentEvent) -> None:
        self._locks.release()

    def on_backup_complete(self, event: CurrentEvent) -> None:
        self._locks.release()

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        self._locks.release()

    def on_post_restore(self, event: CurrentEvent) -> None:
        """The package data base is looked through when it is back."""
        for component in event.components:
            if (component.name, component.file_restore_status) == ("packages", FileRestoreStatus.ALL):
                problem = self.audit()
                if problem:
                    component.post_restore_failure_message = problem
                    event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, problem)

    def audit(self) -> str:
        """What the package manager finds wrong; empty when nothing."""
        admin = self.settings.place("/var/lib/dpkg")
        if not os.path.isdir(admin):
            return ""
        reports = Reports(self.reports_in(self.reports), self.settings.command_seconds)
        found = " ".join((reports.ask("dpkg", f"--admindir={admin}", "--audit") + " ".join(reports.missing)).split())
        return f"the restored package data base of {self.settings.root} has faults: {found[:300]}" if found else ""


class LayoutWriter(SystemPart):
    """What is bound to this machine: its disks, boot files and kernels, and its identity."""

    writer_id = "8352af9e-99cb-4f17-acb0-93986b93e6f7"
    name = "Layout Writer"
    usage = UsageType.BOOTABLESYSTEMSTATE
    reports = "disk layout"

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(settings, socket_path)
        self._found: dict[str, object] = {}

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(
            RestoreMethodType.RESTORE_AT_REBOOT_IF_CANNOT_REPLACE, WriterRestore.ALWAYS, reboot_required=True
        )
        metadata.set_backup_schema(BackupSchema.COPY)
        for name, files in parts_of(self.settings.root, ()).layout.items():
            self.add(metadata, name, PATH, files)
        self.add_reports(metadata, self.reports)

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """The disks are asked while nothing is frozen."""
        seconds = min(self.settings.command_seconds, event.remaining)
        reports = Reports(self.reports_in(self.reports), seconds)
        self._found = report(reports, self.settings.disks, self.settings.luks_headers)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        for component in event.components:
            if component.name == self.reports:
                component.backup_metadata = json.dumps(self._found)


class UserStoreWriter(SystemPart):
    """The users' own files: a component for each home directory."""

    writer_id = "008f18e4-87d9-4e80-a5f7-380587270e22"
    name = "User Store Writer"
    usage = UsageType.USERDATA
    level = Level.FRONT_END

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(BackupSchema.COPY)
        for home in homes(self.settings.root, self.settings.homes):
            parent, name = os.path.split(home)
            try:
                self.add(metadata, name, parent.strip("/").replace("/", "\\"), [(home, "*", True)], f"home {home}")
            except VssError as error:
                LOG.warning("%s: it is left out", error.message)
                continue
            for path in self.settings.not_in_homes:
                metadata.exclude_files(f"{self.settings.place(home)}/{path}", "*", recursive=True)


def writers_of(settings: Settings, socket_path: str = "") -> list[Writer]:
    """All three."""
    return [kind(settings, socket_path) for kind in (SystemWriter, LayoutWriter, UserStoreWriter)]
