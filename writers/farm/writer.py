"""The farm's writer; it lives in the farm's own process, and freezes the farm at its own gate.

Components::

    Farm                      selectable; defines the set, so everything below comes with it
    Farm\\Config               only with the whole farm
    Farm\\Content\\content_a    also by itself, at backup and at restore
    Farm\\Search\\main          only with the whole farm
    Farm\\ThirdParty\\crm       no files; depends on the component of the SQLite writer that has the database

A third party's database is not the farm's to freeze: the farm only registers it and declares the dependency. The SQLite
writer names a component by the database's path (``sqlite/naming.py``). The dependency stands on ``Farm`` too, for
requesters that look at explicitly chosen components only.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import BackupSchema, ComponentType, Level, RestoreMethodType, SourceType, WriterRestore
from shadowset.writers.farm.app import Farm, FarmErrors, FreezeTimeoutError, empty_directory, remove_side_files
from shadowset.writers.farm.gate import GateShutError
from shadowset.writers.farm.thirdparty import ThirdParty
from shadowset.writers.naming import component_identity
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer
from shadowset.writers.sqlite.naming import SQLITE_WRITER_ID

FARM_WRITER_ID = "c7140fe6-4a35-47a6-9df6-2f7a27b2e5e4"
FARM = "Farm"
DRAIN_SHARE = 0.5  # of the time for pre-restore
LOG = logging.getLogger("shadowset.writer.farm")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class FarmWriter(Writer):
    """Takes a farm through backup and restore."""

    writer_id = FARM_WRITER_ID
    name = "Shadowset Farm Writer"
    source = SourceType.TRANSACTEDDB
    level = Level.FRONT_END

    def __init__(
        self,
        farm: Farm,
        third_parties: list[ThirdParty] | None = None,
        freeze_timeout_ms: int = 60_000,
        socket_path: str = "",
    ) -> None:
        super().__init__(socket_path)
        self.farm = farm
        self.third_parties = third_parties or []
        self.freeze_timeout_ms = freeze_timeout_ms
        self.backups = 0
        self._frozen_at = ""
        self._summary = ""

    # --- identify

    def on_identify(self, metadata: MetadataBuilder) -> None:
        registry = self.farm.registry
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(BackupSchema.COPY)
        whole = metadata.add_component(
            ComponentType.FILEGROUP, FARM, caption="The whole farm", notify_on_backup_complete=True
        )
        self._add_database(metadata, "Config", FARM, self.farm.places.config, alone=False)
        for name, path in registry.content.items():
            self._add_database(metadata, name, f"{FARM}\\Content", path, alone=True)
        for name, directory in registry.indexes.items():
            search = metadata.add_component(ComponentType.FILEGROUP, name, f"{FARM}\\Search", selectable=False)
            search.add_files(os.path.realpath(directory), "*")
            metadata.exclude_files(os.path.realpath(directory), ".tantivy-*.lock")
        for name, path in registry.third_party.items():
            third = metadata.add_component(ComponentType.DATABASE, name, f"{FARM}\\ThirdParty", selectable=False)
            for dependent in (third, whole):
                dependent.add_dependency(SQLITE_WRITER_ID, *component_identity(path))

    def _add_database(self, metadata: MetadataBuilder, name: str, parent: str, path: str, alone: bool) -> None:
        component = metadata.add_component(
            ComponentType.DATABASE,
            name,
            parent,
            selectable=alone,
            selectable_for_restore=alone,
            notify_on_backup_complete=True,
        )
        directory, file = os.path.split(os.path.realpath(path))
        component.add_database_files(directory, file).add_database_files(directory, f"{file}-journal")

    # --- backup

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        farm = self.farm
        if farm.state == "damaged":
            message = f"the farm in {farm.places.a} is damaged ({farm.problem}); restore it before it is backed up"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        missing = [place for place in (farm.places.a, farm.places.b) if event.is_path_left_out(os.path.realpath(place))]
        if missing:
            message = f"{' and '.join(missing)} of the farm lie on no volume of the set; add their volumes"
            event.set_failure(Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, message)

    def on_freeze(self, event: CurrentEvent) -> None:
        try:
            self.farm.freeze(lambda: event.cancelled)
            money, under_way = self.farm.money()
        except FreezeTimeoutError as error:
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, f"{error}; lower the farm's load and try again") from error
        except FarmErrors as error:
            message = f"the farm in {self.farm.places.a} cannot be frozen: {error}; look at its log"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
        self._frozen_at = _now()
        documents = len(self.farm.documents())
        self._summary = json.dumps({"money": money, "transfers_under_way": under_way, "documents": documents})

    def on_thaw(self, event: CurrentEvent) -> None:
        self.farm.thaw()

    def on_abort(self, event: CurrentEvent) -> None:
        self.farm.thaw()

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        for component in event.components:
            component.backup_stamp = self._frozen_at
            component.backup_metadata = self._summary

    def on_backup_complete(self, event: CurrentEvent) -> None:
        saved = [component.full_path for component in event.components if component.backup_succeeded]
        if not saved:
            return
        try:
            self.farm.record_backup(saved, event.set, self._frozen_at or _now())
        except (GateShutError, *FarmErrors) as error:
            message = f"the farm cannot record its backup: {error}"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
        self.backups += 1

    # --- restore

    def on_pre_restore(self, event: CurrentEvent) -> None:
        selected = self._selected(event)
        if not selected:
            return
        budget = event.remaining * (1 - DRAIN_SHARE)
        for third_party in self.third_parties:
            third_party.stop()
        self.farm.prepare_restore(lambda: event.cancelled or event.remaining < budget)
        self._clear_away({component.full_path for component in selected})

    def _clear_away(self, selected: set[str]) -> None:
        """Removes what would spoil the restored files: stale journals, and index files that the old index left."""
        farm, whole = self.farm, FARM in selected
        for name, path in farm.registry.content.items():
            if whole or f"{FARM}\\Content\\{name}" in selected:
                remove_side_files(path)
        if whole:
            remove_side_files(farm.places.config)
            for directory in farm.registry.indexes.values():
                empty_directory(directory)

    def on_post_restore(self, event: CurrentEvent) -> None:
        selected = self._selected(event)
        if not selected:
            return
        names = [component.full_path for component in selected]
        try:
            self.farm.open(rebuild_index=True)
            problems = self.farm.problems()
            if not problems:
                problems = self._reconcile(names)
        except FarmErrors as error:
            problems = [str(error)]
        if problems:
            self._report(event, selected, problems)
            return
        self.farm.admit()
        for third_party in self.third_parties:
            third_party.start()

    def _reconcile(self, selected: list[str]) -> list[str]:
        """Makes the configuration agree with what was restored; returns what cannot be made to agree."""
        if FARM not in selected:
            difference = self.farm.adjust_money(f"restored {', '.join(selected)} alone", _now())
            LOG.info("restored %s alone: the expected money changed by %d", ", ".join(selected), difference)
            return []
        money, _under_way = self.farm.money()
        expected = self.farm.expected_money()
        return [] if money == expected else [f"the farm's money is {money}, and should be {expected}"]

    def _report(self, event: CurrentEvent, selected: list[Component], problems: list[str]) -> None:
        message = f"the restored farm does not work: {'; '.join(problems)}; restore another backup"
        self.farm.damage(RuntimeError(message), closed=True)
        for component in selected:
            component.post_restore_failure_message = message
        event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, message)

    def _selected(self, event: CurrentEvent) -> list[Component]:
        return [component for component in event.components if component.selected_for_restore]
