"""Which backups there are, and what is in them: read from the manifests whenever it is asked."""

from __future__ import annotations

import fnmatch
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.chain import BUILDS_ON
from shadowset.requester.backup.manifest import BundleError, Manifest, ManifestComponent
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.selection import Selector

DEPTH = 3
OBJECTS = ".objects"
"""Beside backups that share contents; no backups are in it."""


class Version(msgspec.Struct, kw_only=True):
    """One backup; ``needs`` is the directory of its base, ``needed_by`` those that build on it.

    ``trouble`` says why it cannot be restored: damaged, or its base is not there. ``created`` is ISO 8601 in UTC.
    """

    directory: str
    created: str = ""
    host: str = ""
    backup_type: str = ""
    set_id: str = ""
    complete: bool = False
    files: int = 0
    bytes: int = 0
    components: list[ManifestComponent] = []
    needs: str = ""
    needed_by: list[str] = []
    trouble: str = ""


class FoundFile(msgspec.Struct, kw_only=True):
    """A file in one of the backups; not ``stored``, its contents are in an earlier one of the chain."""

    path: str
    directory: str
    created: str
    writer: str
    component: str
    bytes: int
    mtime_ns: int
    stored: bool


@dataclass
class _Entry:
    version: Version
    digest: str = ""
    manifest: Manifest | None = None


class Catalogue:
    """The backups in some places, oldest first. A place is a backup, or a directory with backups up to three deep."""

    def __init__(self, places: Iterable[str]) -> None:
        """Errors: VSS_E_OBJECT_NOT_FOUND for a place that is not there."""
        found = {directory: None for place in places for directory in _bundles(os.path.abspath(place), DEPTH)}
        self._entries = sorted(map(_read, found), key=lambda entry: entry.version.created)
        self._link()

    def _link(self) -> None:
        by_digest = {entry.digest: entry.version for entry in self._entries if entry.digest}
        for entry in self._entries:
            base = entry.manifest.base if entry.manifest else None
            if base is None:
                continue
            there = os.path.normpath(os.path.join(entry.version.directory, base.directory))
            needed = by_digest.get(base.sha256)
            entry.version.needs = needed.directory if needed else there
            if needed is not None:
                needed.needed_by.append(entry.version.directory)
            elif not os.path.exists(f"{there}/{bundle.NAME}"):
                entry.version.trouble = f"its base is not at {there}"
            elif _read(there).digest != base.sha256:
                entry.version.trouble = f"what is at {there} is not its base"
        self._pass_trouble_on()

    def _pass_trouble_on(self) -> None:
        """What builds on something that cannot be restored cannot be restored either; bases are older."""
        by_directory = {version.directory: version for version in self.versions()}
        for version in by_directory.values():
            for directory in version.needed_by if version.trouble else ():
                follower = by_directory[directory]
                follower.trouble = follower.trouble or f"its base {version.directory} cannot be restored"

    def versions(self, wanted: tuple[Selector, ...] = ()) -> list[Version]:
        """All backups, or those that hold one of these components and could be read."""
        return [entry.version for entry in self._entries if not wanted or any(_chosen(entry, wanted))]

    def files(self, pattern: str, wanted: tuple[Selector, ...] = ()) -> Iterator[FoundFile]:
        """Files whose path, or last element, fits a shell pattern."""
        for entry in self._entries:
            keys = {one.key: one for one in _chosen(entry, wanted)}
            for file in entry.manifest.files if entry.manifest else ():
                key = (file.writer_id, file.instance_id, file.component)
                named = fnmatch.fnmatchcase(file.path, pattern) or fnmatch.fnmatchcase(
                    os.path.basename(file.path), pattern
                )
                if key in keys and named and file.kind in bundle.FILE_KINDS:
                    yield FoundFile(
                        path=file.path,
                        directory=entry.version.directory,
                        created=entry.version.created,
                        writer=keys[key].writer,
                        component=file.member or file.component,
                        bytes=file.whole_size or file.size,
                        mtime_ns=file.attributes.mtime_ns,
                        stored=bool(file.stored),
                    )

    def base_for(self, backup_type: BackupType) -> str:
        """The newest backup of this host that one of this type can build on. Errors: VSS_E_OBJECT_NOT_FOUND."""
        possible = [kind.name for kind in BUILDS_ON.get(backup_type, ())]
        for entry in reversed(self._entries):
            version = entry.version
            fits = version.backup_type in possible and version.complete and version.host == socket.gethostname()
            if fits and not version.trouble:
                return version.directory
        kinds = " or ".join(name.lower() for name in possible)
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"there is no {kinds} backup of this host to build on; make a full one, or name one with --base DIR",
        )


def _chosen(entry: _Entry, wanted: tuple[Selector, ...]) -> Iterator[ManifestComponent]:
    for component in entry.version.components:
        who = WriterMetadata(component.writer_id, component.instance_id, component.writer)
        if not wanted or any(one.names(who) and one.path in ("", component.full_path) for one in wanted):
            yield component


def _bundles(place: str, depth: int) -> Iterator[str]:
    if os.path.exists(f"{place}/{bundle.NAME}"):
        yield place
        return
    try:
        with os.scandir(place) as entries:
            below = sorted(
                entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name != OBJECTS
            )
    except OSError as error:
        if depth == DEPTH:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{place} cannot be read: {error.strerror}") from error
        return
    for directory in below if depth else ():
        yield from _bundles(directory, depth - 1)


def _read(directory: str) -> _Entry:
    try:
        manifest, digest = bundle.load_with_digest(directory)
    except BundleError as error:
        return _Entry(Version(directory=directory, trouble=error.message))
    version = Version(
        directory=directory,
        created=manifest.created,
        host=manifest.host,
        backup_type=manifest.backup_type,
        set_id=manifest.set_id,
        complete=all(component.succeeded for component in manifest.components),
        files=sum(1 for file in manifest.files if file.kind == bundle.REGULAR),
        bytes=manifest.total_bytes,
        components=manifest.components,
    )
    return _Entry(version, digest, manifest)
