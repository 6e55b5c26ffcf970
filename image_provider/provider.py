"""The provider of copies that were imported. It makes none, so it knows no volume to make them of.

Each copy is a directory ``<state>/<snapshot id>`` with ``image``, a sparse file, and ``copy.json``; it is made under
another name and renamed when it is whole and stands in the catalogue.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import NoReturn, TypeVar
from uuid import UUID, uuid5

import msgspec

from shadowset import __version__
from shadowset.image_provider.archive import Archive
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute, ProviderCapability, ProviderType, SnapshotState
from shadowset.vss.paths import DEVICE_PREFIX
from shadowset.vss.provider import Imported, ProviderHost, VolumeFacts
from shadowset.vss.provider_protocol import ChangedRanges, Committed, CopyInfo, Held, Released
from shadowset.vss.requester_protocol import ProviderInfo, SnapshotProperties
from shadowset.vss.transport import Transport

PROVIDER_ID = "2e6b0e0c-55f4-4d0b-8a8e-6c8b7a9d4f57"
PART = ".part"
T = TypeVar("T")


class Record(msgspec.Struct):
    """A copy and the volume it is of, as it is named here."""

    volume: str
    copy: CopyInfo


class ImageProvider:
    """Implements ``shadowset.vss.provider.Importer``."""

    info = ProviderInfo(
        provider_id=PROVIDER_ID,
        name="Shadowset imported copies",
        type=ProviderType.SOFTWARE,
        version=__version__,
        version_id=str(uuid5(UUID(PROVIDER_ID), __version__)),
        class_id=PROVIDER_ID,
        capabilities=ProviderCapability.COMPLIANT | ProviderCapability.MULTIPLE_IMPORT,
        lacks=["creation", "changed-blocks", "revert", "priority"],
    )

    def __init__(self, host: ProviderHost) -> None:
        self._host = host

    async def start(self, copies: list[SnapshotProperties]) -> None:
        """What was cut off while it was imported goes, unless it stands in the catalogue; the others are shown."""
        await self._run(lambda: self._settle({copy.snapshot_id for copy in copies}))
        for copy in copies:
            try:
                await self.surface(copy)
            except VssError:
                continue  # it is gone; the coordinator finds that out

    def _settle(self, known: set[str]) -> None:
        for name in os.listdir(self._host.state):
            if name.endswith(PART):
                if name.removesuffix(PART) in known:
                    self._finish(name.removesuffix(PART))
                else:
                    shutil.rmtree(f"{self._host.state}/{name}", ignore_errors=True)

    def _finish(self, snapshot_id: str) -> None:
        place = self._place(snapshot_id)
        if not os.path.exists(place):
            os.rename(place + PART, place)

    async def stop(self) -> None:
        """The mounts stay."""

    # ---- importing ----

    async def take_in(self, path: str) -> Imported:
        """A copy out of a transport file; it stays only if ``post_final_commit`` follows. Errors: VssError."""
        return await self._run(lambda: self._take_in(path))

    def _take_in(self, path: str) -> Imported:
        archive = Archive(path)
        try:
            transport = archive.transport
            record = self._record(transport)
            place = self._place(record.copy.copy_id)
            if os.path.exists(place):
                raise VssError(
                    Code.VSS_E_OBJECT_ALREADY_EXISTS, f"shadow copy {record.copy.copy_id} has been imported already"
                )
            shutil.rmtree(place + PART, ignore_errors=True)
            os.makedirs(place + PART, mode=0o700)
            try:
                self._fill(archive, transport, place + PART)
                _write_record(place + PART, record)
            except BaseException:
                shutil.rmtree(place + PART, ignore_errors=True)
                raise
            return Imported(_here(transport.copy, record.volume), transport.made, archive.document)
        finally:
            archive.close()

    def _record(self, transport: Transport) -> Record:
        copy = transport.copy
        try:
            copy_id = str(UUID(copy.snapshot_id))
        except ValueError:
            raise VssError(Code.E_INVALIDARG, f"{copy.snapshot_id[:60]!r} is no id of a shadow copy") from None
        info = CopyInfo(copy_id, copy.snapshot_set_id, 0, copy.created_ns, True, False, copy.size)
        return Record(f"{copy.originating_machine}:{copy.original_volume}", info)

    def _fill(self, archive: Archive, transport: Transport, directory: str) -> None:
        image = f"{directory}/image"
        if transport.since:
            base = f"{self._place(str(UUID(transport.since)))}/image"
            if not os.path.exists(base):
                raise VssError(
                    Code.VSS_E_OBJECT_NOT_FOUND,
                    f"the file has what changed since shadow copy {transport.since}, which is not here; "
                    f"import that one first",
                )
            subprocess.run(["cp", "--reflink=auto", "--sparse=always", base, image], check=True)
        descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o400)
        try:
            os.ftruncate(descriptor, transport.copy.size)
            archive.write_to(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # ---- copies ----

    async def post_final_commit(self, volume: str, snapshot_id: str) -> None:
        """It stands in the catalogue."""

        def finish() -> None:
            self._finish(snapshot_id)
            self._get(volume, snapshot_id)

        await self._run(finish)

    async def abort(self, volume: str, snapshot_id: str) -> None:
        """It goes."""
        await self._run(lambda: shutil.rmtree(self._place(snapshot_id) + PART, ignore_errors=True))

    async def delete(self, volume: str, snapshot_id: str) -> None:
        """Later ones, which were imported on top of it, stay whole."""

        def remove() -> None:
            self._get(volume, snapshot_id)
            os.rename(self._place(snapshot_id), self._place(snapshot_id) + PART)
            shutil.rmtree(self._place(snapshot_id) + PART)

        await self._run(remove)

    async def volumes(self) -> list[str]:
        """As they are named here: HOST:VOLUME."""
        return await self._run(lambda: sorted({record.volume for record in self._all()}))

    async def copies(self, volume: str) -> list[CopyInfo]:
        """All that were imported."""
        if ":" not in volume:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{volume[:200]!r} was not imported")
        return await self._run(lambda: [record.copy for record in self._all() if record.volume == volume])

    async def keep(self, volume: str, snapshot_id: str, priority: int | None, hold_until_ns: int | None) -> None:
        """No copy is given up for space."""
        await self._run(lambda: self._get(volume, snapshot_id))

    async def changes(self, volume: str, since: str, until: str, offset: int) -> ChangedRanges:
        """Not known."""
        raise VssError(Code.VSS_E_NOT_SUPPORTED, f"what changed between imported copies of {volume} is not known here")

    def place(self, device_number: int) -> str:
        """A file that cannot be written to."""
        return f"{self._host.trees}/{DEVICE_PREFIX}{device_number}"

    async def surface(self, copy: SnapshotProperties) -> None:
        """The image, mounted read-only over an empty file."""

        def show() -> None:
            self._get(copy.original_volume, copy.snapshot_id)
            image, place = f"{self._place(copy.snapshot_id)}/image", copy.device_object
            if os.path.exists(place) and os.path.samefile(image, place):
                return
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o400))
            subprocess.run(["mount", "--bind", "-o", "ro", image, place], check=True, capture_output=True)

        await self._run(show)

    async def unsurface(self, copy: SnapshotProperties) -> None:
        """Whoever reads it can go on."""

        def hide() -> None:
            subprocess.run(["umount", "--lazy", copy.device_object], check=False, capture_output=True)
            if os.path.lexists(copy.device_object):
                os.unlink(copy.device_object)

        await self._run(hide)

    # ---- what it does not do ----

    async def find(self, volume: str) -> VolumeFacts | None:
        """It makes no copies, so no volume is its own."""
        return None

    async def is_volume_supported(self, volume: str) -> bool:
        """None is."""
        return False

    async def begin_prepare(self, volume: str, set_id: str, snapshot_id: str) -> None:
        """Refused."""
        _refuse(volume)

    async def end_prepare(self, volume: str, set_id: str) -> None:
        """Refused."""
        _refuse(volume)

    async def pre_commit(self, volume: str, set_id: str) -> None:
        """Refused."""
        _refuse(volume)

    def lost(self, volume: str) -> bool:
        """Nothing is held."""
        return True

    async def hold(self, volume: str, timeout_ms: int) -> Held:
        """Refused."""
        _refuse(volume)

    async def commit(self, volume: str, snapshot_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        """Refused."""
        _refuse(volume)

    async def release(self, volume: str) -> Released:
        """Refused."""
        _refuse(volume)

    async def post_commit(self, volume: str, set_id: str) -> None:
        """Refused."""
        _refuse(volume)

    async def pre_final_commit(self, volume: str, set_id: str) -> None:
        """Refused."""
        _refuse(volume)

    async def open_layer(self, volume: str, snapshot_id: str) -> str:
        """Refused."""
        _refuse(volume)

    async def seal(self, volume: str, snapshot_id: str) -> None:
        """Refused."""
        _refuse(volume)

    # ---- files ----

    def _place(self, snapshot_id: str) -> str:
        return f"{self._host.state}/{snapshot_id}"

    def _get(self, volume: str, snapshot_id: str) -> Record:
        for record in self._all():
            if (record.volume, record.copy.copy_id) == (volume, snapshot_id):
                return record
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no imported copy {snapshot_id[:60]!r} of {volume}")

    def _all(self) -> list[Record]:
        found = []
        for name in sorted(os.listdir(self._host.state)):
            if not name.endswith(PART):
                with open(f"{self._host.state}/{name}/copy.json", "rb") as file:
                    found.append(msgspec.json.decode(file.read(), type=Record))
        return found

    async def _run(self, work: Callable[[], T]) -> T:
        """In a thread. Errors: VssError, made of others where need be."""
        try:
            return await self._host.in_thread(work)
        except (OSError, msgspec.MsgspecError, subprocess.CalledProcessError) as error:
            full = isinstance(error, OSError) and error.errno == 28
            code = Code.VSS_E_INSUFFICIENT_STORAGE if full else Code.VSS_E_UNEXPECTED_PROVIDER_ERROR
            raise VssError(code, f"imported copies in {self._host.state}: {error}") from None


def _refuse(volume: str) -> NoReturn:
    raise VssError(
        Code.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER, f"volume {volume} is elsewhere; copies of it are made there"
    )


def _write_record(directory: str, record: Record) -> None:
    with open(f"{directory}/copy.new", "wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{directory}/copy.new", f"{directory}/copy.json")


def _here(copy: SnapshotProperties, volume: str) -> SnapshotProperties:
    """The copy's properties on this host; the coordinator gives it a place."""
    kept = Attribute.IMPORTED | Attribute.PERSISTENT | Attribute.NO_AUTO_RELEASE
    return msgspec.structs.replace(
        copy,
        original_volume=volume,
        service_machine=socket.gethostname(),
        provider_id=PROVIDER_ID,
        attributes=copy.attributes & ~int(Attribute.EXPOSED_LOCALLY) | kept,
        status=SnapshotState.CREATED,
        exposed_name="",
        mount_points=[],
        hold_until_ns=0,
    )
