"""Whole volumes as qcow2 images: now and then a full one, and between these only what changed.

Each version is a directory with an image per volume and ``images.json``, written last. The newest version's shadow
copies stay, persistent, since the next version is what changed after them; older ones of the job are deleted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup.copy import digest_file, writing
from shadowset.requester.backup.manifest import write_atomically
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.unfinished import worth_keeping
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.create import complete, create_set, take_back
from shadowset.requester.delta import whole_delta
from shadowset.requester.durations import seconds_in
from shadowset.requester.jobs import image_begun, qcow2
from shadowset.requester.jobs.definition import Job
from shadowset.requester.jobs.image_begun import CLIENT, NOTE, Begun, Image
from shadowset.requester.jobs.keep import StoredVersion
from shadowset.requester.jobs.place import Place, moment
from shadowset.requester.jobs.store import Saved, Store
from shadowset.requester.observer import Observer
from shadowset.requester.run.job import chosen_volumes
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Context, ObjectType
from shadowset.vss.paths import Paths
from shadowset.vss.provider_protocol import ChangedRanges
from shadowset.vss.requester_protocol import SnapshotProperties

NAME = "images.json"
FORMAT = 1
FULL, INCREMENTAL = "full", "incremental"


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
        left, told = self._place.unfinished(), []
        for name in left:
            begun = image_begun.load(self._place.path(name))
            why = self._why_not(begun) if name == left[-1] else "a later run began another"
            if why:
                self._drop(name, begun)
                told.append(f"{name} was not finished when its run ended, and is removed, since {why}")
            else:
                told.append(f"{name} was not finished; this run goes on with it, from the same shadow copies")
        return told

    def _why_not(self, begun: Begun | None) -> str:
        copies = image_begun.copies_of(self._paths, begun)
        why = image_begun.why_not(begun, copies, self._volumes(), seconds_in(self._job.resume_within))
        sound = [version.id for version in self.versions() if not version.trouble]
        if not why and begun is not None and begun.needs and begun.needs not in sound:
            return "what it builds on is gone"
        return why

    def _drop(self, name: str, begun: Begun | None) -> None:
        if begun is not None:
            image_begun.forget_set(self._paths, begun)
        self._place.drop(name)

    def unfinished(self) -> list[str]:
        """See ``Store``."""
        return self._place.unfinished()

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
        unfinished = self._place.unfinished()
        for name in self._place.names():
            version = self._read(name)
            if name in unfinished:
                continue
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
        left = self._place.unfinished()
        if left and not self._why_not(image_begun.load(self._place.path(left[-1]))):
            return self._finish(left[-1], left[-1])
        with BackupComponents(self._paths, CLIENT, on_notice=self._observer.notice) as calls:
            name = self._begin(calls)
            saved = self._finish(name, "")
            complete(calls, Context.APP_ROLLBACK)
        return saved

    def _begin(self, calls: BackupComponents) -> str:
        """A version of which only the copies are there; its name. Errors: VssError, after which nothing is left."""
        names, base = self._volumes(), self._base()
        name = self._place.make(INCREMENTAL if base else FULL)
        self._observer.phase("making the shadow copies")
        begun = Begun(set_id="")

        def started(set_id: str) -> None:
            begun.set_id = set_id
            begun.save(self._place.path(name))

        try:
            record = create_set(calls, names, Context.APP_ROLLBACK, seconds_in(self._job.wait), started)
        except BaseException:
            self._place.drop(name)
            raise
        try:
            if base and self._changes(record.snapshots, base) is None:
                name, base = self._place.rename(name, FULL), None
            begun.needs = base[0] if base else ""
            begun.failed = [f"writer {one.name}: {one.failure.message}" for one in record.writers if one.failure.code]
            begun.made = True
            begun.save(self._place.path(name))
            image_begun.protect(self._paths, record.snapshots, image_begun.UNTIL_FINISHED)
        except BaseException:
            take_back(calls, record.set_id)
            self._place.drop(name)
            raise
        return name

    def _finish(self, name: str, resumed: str) -> Saved:
        """Write what is missing of a version that was begun. After an error that does not concern it, it stays so."""
        begun = image_begun.load(self._place.path(name))
        assert begun is not None
        before = sum(entry.stat().st_size for entry in os.scandir(self._place.path(name)) if entry.name != NOTE)
        try:
            version = self._write(name, begun)
        except BaseException as error:
            if not worth_keeping(error, bool(resumed)):
                self._drop(name, begun)
            raise
        return Saved(
            version=name,
            kind=version.kind,
            complete=not begun.failed,
            files=len(version.images),
            bytes=sum(image.read for image in version.images),
            stored_bytes=max(sum(image.file_size for image in version.images) - before, 0),
            resumed=resumed,
            sentences=[*begun.failed, *self._forget_copies({image.snapshot_id for image in version.images})],
        )

    def _volumes(self) -> list[str]:
        with Administration(self._paths, client=CLIENT) as administration:
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

    def _write(self, name: str, begun: Begun) -> ImageVersion:
        directory, copies = self._place.path(name), image_begun.copies_of(self._paths, begun)
        base = self._read(begun.needs) if begun.needs else None
        changes = self._changes(copies, (begun.needs, base)) if isinstance(base, ImageVersion) else None
        if begun.needs and changes is None:
            sentence = f"what changed since {begun.needs} is not known any more; the next run makes a full backup"
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence)
        done = {image.volume for image in begun.images}
        for copy in copies:
            if copy.original_volume not in done:
                before = f"../{begun.needs}/{copy.original_volume}.qcow2" if begun.needs else ""
                delta = changes[copy.snapshot_id] if changes is not None else None
                begun.images.append(self._image(copy, directory, before, delta))
                begun.save(directory)
        version = ImageVersion(
            created=_time_text(min(copy.created_ns for copy in copies)),
            host=socket.gethostname(),
            set_id=begun.set_id,
            kind=INCREMENTAL if begun.needs else FULL,
            needs=begun.needs,
            images=begun.images,
        )
        write_atomically(f"{directory}/{NAME}", msgspec.json.format(msgspec.json.encode(version)) + b"\n")
        with writing(directory):
            os.unlink(f"{directory}/{NOTE}")
        image_begun.protect(self._paths, copies, image_begun.AFTERWARDS)
        return version

    def _changes(
        self, copies: Sequence[SnapshotProperties], base: tuple[str, ImageVersion]
    ) -> dict[str, ChangedRanges] | None:
        """By snapshot id what changed since the base; None when that is not known of one of the volumes."""
        before = {image.volume: image for image in base[1].images}
        if before.keys() != {copy.original_volume for copy in copies}:
            return None
        found = {}
        with Administration(self._paths, client=CLIENT) as administration:
            for copy in copies:
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
        read = copy.size if delta is None else sum(length for _, length in delta.ranges)
        begin, on_bytes = qcow2.begun(path), self._observer.begin(read)
        if delta is None:
            qcow2.write_whole(copy.device_object, path, copy.size, begin, on_bytes)
        else:
            qcow2.write_changed(copy.device_object, path, base, copy.size, delta.ranges, begin, on_bytes)
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

    def _forget_copies(self, newest: set[str]) -> list[str]:
        """Delete the copies of earlier versions; what cannot be deleted is told, and tried again the next time."""
        with BackupComponents(self._paths, CLIENT) as calls:
            return self._forget_with(calls, newest)

    def _forget_with(self, calls: BackupComponents, newest: set[str]) -> list[str]:
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
        freed, unfinished = 0, self._place.unfinished()
        for name in versions:
            freed += sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._place.path(name)))
            self._drop(name, image_begun.load(self._place.path(name)) if name in unfinished else None)
        return freed


def _time_text(nanoseconds: int) -> str:
    return f"{datetime.fromtimestamp(nanoseconds // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"
