"""The directory that a backup is written to: where each file goes, and copying it there.

Hard links are copied as files of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import Protocol

from shadowset.requester.backup.copy import (
    OnBytes,
    apply_attributes,
    copy_contents,
    copy_ranges,
    open_source,
    read_attributes,
    writing,
)
from shadowset.requester.backup.listing import Found
from shadowset.requester.backup.manifest import FILES, STORED, SYMLINK, UNCHANGED, ManifestFile
from shadowset.requester.backup.plan import PlannedComponent
from shadowset.vss.codes import Code, VssError
from shadowset.vss.ranges import ranges_text

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 -_.()")
_LONGEST = 120


class Settling(Protocol):
    """Where contents that several backups have are stored once."""

    def settle(self, path: str, size: int, sha256: str) -> None:
        """The stored file ``path`` may become another name of the same content. Errors: TargetError."""


class Target:
    """A directory, empty or new in one that is there, taken over by a backup; ``discard`` removes what that made."""

    def __init__(self, directory: str, pool: Settling | None = None) -> None:
        self.directory = os.path.abspath(directory)
        self.pool = pool
        self._made = not os.path.lexists(self.directory)
        with writing(self.directory):
            if not self._made and not os.path.isdir(self.directory):
                raise VssError(Code.E_INVALIDARG, f"the target {directory} is no directory; name another one")
            if not self._made and os.listdir(self.directory):
                raise VssError(
                    Code.E_INVALIDARG, f"the target {directory} is not empty; name an empty or new directory"
                )
            if self._made:
                self._require_parent()
                os.mkdir(self.directory, mode=0o700)

    def _require_parent(self) -> None:
        """A parent that is missing is most often a file system that is not mounted. Errors: E_INVALIDARG."""
        parent = os.path.dirname(self.directory)
        if not os.path.isdir(parent):
            raise VssError(
                Code.E_INVALIDARG, f"there is no directory {parent} for the target; mount its file system, or make it"
            )

    def discard(self) -> None:
        """Remove everything written, so that nothing unfinished is taken for a backup."""
        if self._made:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        for name in os.listdir(self.directory):
            path = f"{self.directory}/{name}"
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)

    def discard_component(self, component_directory: str) -> None:
        """Remove the files of a component that failed."""
        shutil.rmtree(f"{self.directory}/{component_directory}", ignore_errors=True)


def element(name: str) -> str:
    """A name as one element of a path, readable and never ambiguous: anything unusual is written as %XX."""
    data = name.encode("utf-8", "surrogateescape")
    text = "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in data)
    if text.startswith("."):
        text = f"%2E{text[1:]}"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}%{hashlib.sha256(data).hexdigest()[:12]}"
    return text or "%"


def component_directories(components: tuple[PlannedComponent, ...]) -> list[str]:
    """For each component ``files/WRITER/PATH+NAME``; writers of the same name are told apart by their instances."""
    instances: dict[str, set[str]] = {}
    for component in components:
        instances.setdefault(component.writer.name, set()).add(component.writer.instance_id)
    directories = []
    for component in components:
        writer = component.writer
        first = element(writer.name)
        if len(instances[writer.name]) > 1:
            first += "+" + element(writer.instance_name or writer.instance_id)
        parts = "+".join(element(part) for part in component.info.full_path.split("\\"))
        directories.append(f"{FILES}/{first}/{parts}")
    return directories


def copy_one(
    target: Target, component: PlannedComponent, component_directory: str, found: Found, on_bytes: OnBytes
) -> ManifestFile:
    """Copy one file into the target (directories and links only into the manifest), and return its entry.

    Errors: OSError when it cannot be read, TargetError when it cannot be written.
    """
    entry = ManifestFile(
        writer_id=component.writer.writer_id,
        instance_id=component.writer.instance_id,
        component=component.info.full_path,
        member="" if found.member == component.info.full_path else found.member,
        path=found.path,
        kind=found.kind,
        attributes=read_attributes(found.read_path, found.status),
    )
    if found.kind == SYMLINK:
        entry.link = os.readlink(found.read_path)
    elif found.kind == UNCHANGED:
        entry.whole_size = found.status.st_size
    elif found.kind in STORED:
        entry.stored = f"{component_directory}{found.path}"
        path = f"{target.directory}/{entry.stored}"
        _copy_regular(path, found, entry, on_bytes)
        if target.pool is not None:
            target.pool.settle(path, entry.size, entry.sha256)
    return entry


def _copy_regular(path: str, found: Found, entry: ManifestFile, on_bytes: OnBytes) -> None:
    source = open_source(found.read_path)
    try:
        entry.attributes = read_attributes(source, os.fstat(source))
        with writing(path):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if found.ranges:
                entry.ranges, entry.whole_size = ranges_text(found.ranges), os.fstat(source).st_size
                entry.size, entry.sha256 = copy_ranges(source, target, found.ranges, path, on_bytes)
            else:
                entry.size, entry.sha256 = copy_contents(source, target, path, on_bytes)
            with writing(path):
                apply_attributes(target, entry.attributes, strict=False)
        finally:
            os.close(target)
    finally:
        os.close(source)
