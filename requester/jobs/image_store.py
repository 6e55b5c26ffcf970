"""Whole volumes as qcow2 images: now and then a full one, and between these only what changed.

Each version is a directory with an image per volume and ``images.json``, written last. The newest version's shadow
copies stay, persistent, since the next version is what changed after them; older ones of the job are deleted.
"""

from __future__ import annotations

import os
import socket

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup.copy import digest_file
from shadowset.requester.backup.manifest import write_atomically
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.create import complete, create_set, take_back
from shadowset.requester.delta import whole_delta
from shadowset.requester.durations import seconds_in
from shadowset.requester.jobs import qcow2
from shadowset.requester.jobs.definition import Job
from shadowset.requester.jobs.history import now_text
from shadowset.requester.jobs.keep import StoredVersion
from shadowset.requester.jobs.place import Place, moment
from shadowset.requester.jobs.store import Saved, Store
from shadowset.requester.observer import Observer
from shadowset.requester.run.job import chosen_volumes
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Context, ObjectType
from shadowset.vss.paths import Paths
from shadowset.vss.provider_protocol import ChangedRanges
from shadowset.vss.requester_protocol import SetRecord, SnapshotProperties

NAME = "images.json"
FORMAT = 1
FULL, INCREMENTAL = "full", "incremental"


class Image(msgspec.Struct, kw_only=True):
    """One volume: its image file with size on disk and digest, the copy that it shows, and how much of it was read."""

    volume: str
    file: str
    file_size: int
    sha256: str
    size: int
    read: int
    snapshot_id: str


class ImageVersion(msgspec.Struct, kw_only=True):
    """One version; ``needs`` is the name of the version whose images these build on."""

    format: int = FORMAT
    created: str
    host: str
    set_id: str
    kind: str
    needs: str = ""
    images: list[Image]


class ImageStore(Store):
    """The target is this directory."""

    def __init__(self, job: Job, paths: Paths, observer: Observer) -> None:
        self._job = job
        self._paths = paths
        self._observer = observer
        self._place = Place(job.place, job.name, NAME)

    def prepare(self) -> list[str]:
        """See ``Store``."""
        return self._place.clean()

    def _read(self, name: str) -> ImageVersion | str:
        """A version, or why it cannot be read."""
        path = f"{self._place.path(name)}/{NAME}"
        try:
            with open(path, "rb") as file:
                version = msgspec.json.decode(file.read(), type=ImageVersion)
        except (OSError, msgspec.DecodeError) as error:
            return f"{path} cannot be read: {error}"
        return version if version.format == FORMAT else f"{path} has format {version.format}; use a newer version"

    def versions(self) -> list[StoredVersion]:
        """See ``Store``."""
        found: dict[str, StoredVersion] = {}
        for name in self._place.names():
            version = self._read(name)
            if isinstance(version, str):
                found[name] = StoredVersion(id=name, created=moment(name), kind="", trouble=version)
                continue
            base = found.get(version.needs)
            lacking = f"{version.needs}, on which it builds, is not there or cannot be restored"
            found[name] = StoredVersion(
                id=name,
                created=version.created,
                kind=version.kind,
                needs=version.needs,
                files=len(version.images),
                bytes=sum(image.size for image in version.images),
                trouble=lacking if version.needs and (base is None or base.trouble) else "",
            )
        return list(found.values())

    def save(self) -> Saved:
        """See ``Store``."""
        names = self._volumes()
        base = self._base()
        with BackupComponents(self._paths, "shadowset job", on_notice=self._observer.notice) as calls:
            self._observer.phase("making the shadow copies")
            record = create_set(calls, names, Context.APP_ROLLBACK, seconds_in(self._job.wait))
            try:
                version, name = self._write(record, base)
                complete(calls, Context.APP_ROLLBACK)
            except BaseException:
                take_back(calls, record.set_id)
                raise
            sentences = self._forget_copies(calls, {image.snapshot_id for image in version.images})
        failed = [f"writer {each.name}: {each.failure.message}" for each in record.writers if each.failure.code]
        return Saved(
            version=name,
            kind=version.kind,
            complete=not failed,
            files=len(version.images),
            bytes=sum(image.read for image in version.images),
            stored_bytes=sum(image.file_size for image in version.images),
            sentences=[*failed, *sentences],
        )

    def _volumes(self) -> list[str]:
        with Administration(self._paths, client="shadowset job") as administration:
            known = administration.volume_list()
        places = VolumeMap(known, read_mounts())
        names = chosen_volumes(self._job.volumes, known, places)
        mine = places.locate(self._place.directory)
        if mine is not None and mine.volume in names:
            sentence = f"the target {self._place.directory} lies on volume {mine.volume}, which this job stores; "
            raise VssError(Code.E_INVALIDARG, sentence + "choose a place on another file system")
        return names

    def _base(self) -> tuple[str, ImageVersion] | None:
        """The newest version, when the next one is to build on it."""
        sound = [version for version in self.versions() if not version.trouble]
        since = next((n for n, version in enumerate(reversed(sound)) if version.kind == FULL), len(sound))
        if not sound or since + 1 >= self._job.full_every:
            return None
        version = self._read(sound[-1].id)
        return None if isinstance(version, str) else (sound[-1].id, version)

    def _write(self, record: SetRecord, base: tuple[str, ImageVersion] | None) -> tuple[ImageVersion, str]:
        changes = self._changes(record, base) if base else None
        kind = INCREMENTAL if changes is not None else FULL
        name = self._place.make(kind)
        directory = self._place.path(name)
        try:
            images = []
            for copy in record.snapshots:
                before = f"../{base[0]}/{copy.original_volume}.qcow2" if base and changes is not None else ""
                images.append(self._image(copy, directory, before, (changes or {}).get(copy.snapshot_id)))
            version = ImageVersion(
                created=now_text(),
                host=socket.gethostname(),
                set_id=record.set_id,
                kind=kind,
                needs=base[0] if base and changes is not None else "",
                images=images,
            )
            write_atomically(f"{directory}/{NAME}", msgspec.json.format(msgspec.json.encode(version)) + b"\n")
        except BaseException:
            self._place.drop(name)
            raise
        return version, name

    def _changes(self, record: SetRecord, base: tuple[str, ImageVersion]) -> dict[str, ChangedRanges] | None:
        """By snapshot id what changed since the base; None when that is not known of one of the volumes."""
        before = {image.volume: image for image in base[1].images}
        if before.keys() != {copy.original_volume for copy in record.snapshots}:
            return None
        found = {}
        with Administration(self._paths, client="shadowset job") as administration:
            for copy in record.snapshots:
                since = before[copy.original_volume].snapshot_id

                def ask(at: int, since: str = since, until: str = copy.snapshot_id) -> ChangedRanges:
                    return administration.query_snapshot_delta(since, until, at)

                try:
                    found[copy.snapshot_id] = whole_delta(ask)
                except VssError as error:
                    if error.code not in (Code.VSS_E_OBJECT_NOT_FOUND, Code.VSS_E_NOT_SUPPORTED):
                        raise
                    return None
        return found

    def _image(self, copy: SnapshotProperties, directory: str, base: str, delta: ChangedRanges | None) -> Image:
        if os.path.isdir(copy.device_object):
            sentence = f"volume {copy.original_volume} is a directory of its provider, not a device; back up its files"
            raise VssError(Code.VSS_E_NOT_SUPPORTED, sentence)
        name = f"{copy.original_volume}.qcow2"
        path = f"{directory}/{name}"
        self._observer.phase(f"writing the image of volume {copy.original_volume}")
        if delta is None:
            qcow2.write_whole(copy.device_object, path)
            read = copy.size
        else:
            read = sum(length for _, length in delta.ranges)
            on_bytes = self._observer.begin(read)
            qcow2.write_changed(copy.device_object, path, base, copy.size, delta.ranges, on_bytes)
            self._observer.end()
        size, sha256 = digest_file(path, lambda count: None)
        return Image(
            volume=copy.original_volume,
            file=name,
            file_size=size,
            sha256=sha256,
            size=copy.size,
            read=read,
            snapshot_id=copy.snapshot_id,
        )

    def _forget_copies(self, calls: BackupComponents, newest: set[str]) -> list[str]:
        """Delete the copies of earlier versions; what cannot be deleted is told, and tried again the next time."""
        there = {copy.snapshot_id for copy in calls.query()}
        old = [version for name in self._place.names() if isinstance(version := self._read(name), ImageVersion)]
        sentences = []
        for snapshot_id in sorted({image.snapshot_id for version in old for image in version.images} - newest):
            if snapshot_id in there:
                try:
                    calls.delete_snapshots(snapshot_id, ObjectType.SNAPSHOT)
                except VssError as error:
                    sentences.append(f"shadow copy {snapshot_id} of an earlier version stays: {error.message}")
        return sentences

    def check(self, version: str) -> list[str]:
        """See ``Store``: digests and structure of its images and of those that they build on."""
        found: list[str] = []
        while version:
            told = self._read(version)
            if isinstance(told, str):
                return [*found, told]
            for image in told.images:
                path = f"{self._place.path(version)}/{image.file}"
                try:
                    same = digest_file(path, lambda count: None) == (image.file_size, image.sha256)
                    trouble = qcow2.check(path) if same else f"{path} was altered after it was written"
                except OSError as error:
                    trouble = f"{path} cannot be read: {error.strerror}"
                found += [trouble] if trouble else []
            version = told.needs
        return found

    def remove(self, versions: list[str]) -> int:
        """See ``Store``."""
        freed = 0
        for name in versions:
            freed += sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._place.path(name)))
            self._place.drop(name)
        return freed
