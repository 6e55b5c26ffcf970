"""A shadow copy set as diskshadow and vshadow make one: of given volumes, with the components that lie on them.

The choice of components is vshadow's: what has files on volumes outside the set is left out, and so is what would
bring it along; a writer or component that must be in it and is not fails the job before anything is frozen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from shadowset.requester.administration import Administration
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.plan import volumes_of
from shadowset.requester.backup.verdicts import has_failed, writer_failure_text
from shadowset.requester.backup_components import BackupComponents, ComponentKey
from shadowset.requester.cli.output import note
from shadowset.requester.create import make_set, take_back
from shadowset.requester.sentences import printable
from shadowset.vss.codes import VssError
from shadowset.vss.documents import metadata_to_xml
from shadowset.vss.enums import Attribute, BackupType
from shadowset.vss.metadata import ComponentInfo, WriterMetadata
from shadowset.vss.requester_protocol import SetRecord, SnapshotProperties, VolumeInfo, WriterStatus
from shadowset.vss.selection import PlannedWriter, Selector, plan_backup


@dataclass(frozen=True)
class Wish:
    """What set to make: pairs of volume and provider id ("" is the default), context, type, and a word on writers."""

    volumes: tuple[tuple[str, str], ...]
    context: int
    backup_type: BackupType = BackupType.COPY
    required: tuple[Selector, ...] = ()
    excluded: tuple[Selector, ...] = ()
    wait: float = 600.0

    @property
    def with_writers(self) -> bool:
        """Whether writers are asked."""
        return not self.context & Attribute.NO_WRITERS


@dataclass
class Made:
    """A set that was made: its record, copies in the order of the volumes, and who is in it."""

    record: SetRecord
    copies: list[SnapshotProperties]
    writers: list[WriterMetadata]
    components: list[ComponentKey] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def details(self) -> list[str]:
        """A line for each component of the set, and for each volume what the cut cost it."""
        names = {writer.instance_id: writer.name for writer in self.writers}
        lines = []
        for component in self.components:
            path = f"{component.logical_path}\\{component.name}".lstrip("\\")
            lines.append(printable(f'Component "{names[component.instance_id]}:\\{path}" is in the set.'))
        for volume in self.record.volumes:
            times = f"frozen for {volume.frozen_ms:.1f} ms, writes held for {volume.hold_ms:.1f} ms"
            lines.append(f"Volume {printable(volume.volume)}: {times}.")
        return lines


class Creation:
    """The making of one set on one BackupComponents, which is its lease. Errors of all calls: VssError."""

    def __init__(self, calls: BackupComponents, wish: Wish, variables: Mapping[str, str] | None = None) -> None:
        self._calls = calls
        self._wish = wish
        self._variables = os.environ if variables is None else variables

    def make(self) -> Made:
        """From the question to the writers to the finished set; after an error nothing of it is left."""
        calls, wish = self._calls, self._wish
        calls.initialize_for_backup()
        calls.set_context(wish.context)
        calls.set_backup_state(wish.with_writers, False, wish.backup_type)
        writers = calls.gather_writer_metadata().result() if wish.with_writers else []
        planned = self._plan(writers)
        components = [component_key(writer.metadata, info) for writer in planned for info in writer.explicit]
        for component in components:
            calls.add_component(component)
        named = [] if any(provider for _, provider in wish.volumes) else [volume for volume, _ in wish.volumes]
        set_id = calls.start_snapshot_set(wish.wait, named)
        ids = [calls.add_to_snapshot_set(volume, provider) for volume, provider in wish.volumes]
        if wish.with_writers:
            calls.prepare_for_backup().result()
        record = make_set(calls, set_id)
        by_id = {copy.snapshot_id: copy for copy in record.snapshots}
        made = Made(record, [by_id[one] for one in ids], [writer.metadata for writer in planned], components)
        self._judge(made)
        return made

    def complete(self, made: Made, succeeded: bool = True) -> list[WriterStatus]:
        """Tell the writers how it went; returns those that failed."""
        if not self._wish.with_writers:
            return []
        for component in made.components:
            self._calls.set_backup_succeeded(component, succeeded and component.instance_id not in made.failed)
        self._calls.backup_complete().result()
        return [status for status in self._calls.gather_writer_status().result() if has_failed(status)]

    def documents(self, made: Made) -> list[tuple[str, bytes]]:
        """The backup components document, then each writer's own, with names for files; none without writers."""
        if not self._wish.with_writers:
            return []
        texts = [("BCDocument.xml", self._calls.save_as_xml())]
        texts += [(f"WM{number}.xml", metadata_to_xml(writer)) for number, writer in enumerate(made.writers)]
        return [(name, text.encode("utf-8", "surrogateescape")) for name, text in texts]

    def _plan(self, writers: list[WriterMetadata]) -> tuple[PlannedWriter, ...]:
        if not self._wish.with_writers:
            return ()
        with Administration(client="volumes of a set") as administration:
            volumes = administration.volume_list()
        volume_map = VolumeMap(volumes, read_mounts())
        return plan_backup(
            writers,
            [name_of(volume, volumes, volume_map) for volume, _ in self._wish.volumes],
            lambda files: volumes_of(files, volume_map, self._variables),
            backup_type=self._wish.backup_type,
            excluded=self._wish.excluded,
            required=self._wish.required,
        ).writers

    def _judge(self, made: Made) -> None:
        """A failed writer's components are not backed up. Errors: the failure of one that must be in the set."""
        failed = [status for status in made.record.writers if has_failed(status)]
        for status in failed:
            made.failed.add(status.instance_id)
            note(f"Error: {writer_failure_text(status)}")
            who = WriterMetadata(status.writer_id, status.instance_id, status.name)
            if any(selector.names(who) for selector in self._wish.required):
                take_back(self._calls, made.record.set_id)
                raise VssError(
                    status.failure.code, f"{status.name} must be in the set, and {writer_failure_text(status)}"
                )


@contextmanager
def or_take_back(calls: BackupComponents, made: Made) -> Iterator[None]:
    """Whoever is told that the making of a set failed need not look for what is left of it."""
    try:
        yield
    except BaseException:
        take_back(calls, made.record.set_id)
        raise


def component_key(writer: WriterMetadata, info: ComponentInfo) -> ComponentKey:
    """How the calls name a component of a writer."""
    return ComponentKey(writer.writer_id, writer.instance_id, info.type, info.logical_path, info.name)


def name_of(volume: str, volumes: list[VolumeInfo], volume_map: VolumeMap) -> str:
    """A volume's name from its name, a device of it or a path on it; what is none of them comes back as it is."""
    for info in volumes:
        if volume == info.name or (info.device and os.path.realpath(volume) == os.path.realpath(info.device)):
            return info.name
    place = volume_map.locate(volume) if volume.startswith("/") else None
    return place.volume if place else volume
