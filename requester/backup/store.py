"""The directory that a backup is written to: where each file goes, and copying it there.

Hard links are copied as files of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Protocol

from shadowset.requester.backup.copy import (
    FRESH,
    Fresh,
    OnBytes,
    apply_attributes,
    copy_contents,
    copy_ranges,
    digest_ranges,
    open_source,
    read_attributes,
    writing,
)
from shadowset.requester.backup.listing import Found
from shadowset.requester.backup.manifest import FILES, STORED, SYMLINK, UNCHANGED, ManifestFile
from shadowset.requester.backup.plan import PlannedComponent
from shadowset.requester.backup.unfinished import (
    Continued,
    Mark,
    clear_documents,
    clear_strays,
    is_unfinished,
    make_way,
    to_go_on_with,
    worth_keeping,
)
from shadowset.vss.codes import Code, VssError
from shadowset.vss.ranges import Range, ranges_text

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 -_.()")
_LONGEST = 120


class Settling(Protocol):
    """Where contents that several backups have are stored once."""

    def settle(self, path: str, size: int, sha256: str) -> bool:
        """The stored file ``path`` becomes another name of the same content, when there is one. Errors: TargetError."""

    def has(self, path: str, size: int, sha256: str) -> bool:
        """Whether the stored file ``path`` is a name of this content already, and can be read. Errors: TargetError."""


class Target:
    """A directory, empty or new in one that is there, or that of an unfinished backup, taken over by a backup.

    At its end one of ``finish``, ``leave`` (a later backup goes on) and ``discard`` (all goes that it made).
    ``resumed`` says that it goes on with another; ``new_bytes`` are those that were not stored before.
    """

    def __init__(self, directory: str, pool: Settling | None = None) -> None:
        """Errors: E_INVALIDARG, VSS_E_SNAPSHOT_SET_IN_PROGRESS for one that another backup uses, TargetError."""
        self.directory = os.path.abspath(directory)
        self.pool = pool
        self.new_bytes = 0
        self._made = not os.path.lexists(self.directory)
        with writing(self.directory):
            self._require_place(directory)
            if self._made:
                os.mkdir(self.directory, mode=0o700)
        self.resumed = is_unfinished(self.directory)
        self._mark = Mark(self.directory)
        if self.resumed:
            clear_documents(self.directory)

    def _require_place(self, directory: str) -> None:
        if self._made:
            self._require_parent()
            return
        if not os.path.isdir(self.directory):
            raise VssError(Code.E_INVALIDARG, f"the target {directory} is no directory; name another one")
        if os.listdir(self.directory) and not is_unfinished(self.directory):
            raise VssError(Code.E_INVALIDARG, f"the target {directory} is not empty; name an empty or new directory")

    def _require_parent(self) -> None:
        """A parent that is missing is most often a file system that is not mounted. Errors: E_INVALIDARG."""
        parent = os.path.dirname(self.directory)
        if not os.path.isdir(parent):
            raise VssError(
                Code.E_INVALIDARG, f"there is no directory {parent} for the target; mount its file system, or make it"
            )

    def keep_only(self, stored: Iterable[str]) -> None:
        """Before the manifest is written: what this backup does not have, after all, goes. Errors: TargetError."""
        if self.resumed:
            clear_strays(self.directory, stored)

    def finish(self) -> None:
        """The manifest is written, and with that the backup is one."""
        self._mark.remove()

    def give_up(self, error: BaseException) -> None:
        """End it after an error; what is stored stays where a later backup may go on with it."""
        if worth_keeping(error, self.resumed) and os.path.isdir(f"{self.directory}/{FILES}"):
            self._mark.leave()
        else:
            self.discard()

    def discard(self) -> None:
        """Remove everything written, so that nothing unfinished is taken for a backup."""
        self._mark.leave()
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
        source = open_source(found.read_path)
        try:
            entry.attributes = read_attributes(source, os.fstat(source))
            if found.ranges:
                entry.ranges, entry.whole_size = ranges_text(found.ranges), os.fstat(source).st_size
            target.new_bytes += _store(target, source, found.ranges, entry, on_bytes)
        finally:
            os.close(source)
    return entry


def _store(target: Target, source: int, ranges: Sequence[Range], entry: ManifestFile, on_bytes: OnBytes) -> int:
    """Store the contents, and tell ``entry`` size and digest; returns how many bytes were not there before."""
    path, pool = f"{target.directory}/{entry.stored}", target.pool
    into = FRESH
    if target.resumed:
        with writing(path):
            make_way(target.directory, entry.stored)
            there = to_go_on_with(path)
        if there is not None and there.st_nlink == 1:
            into = Continued()
        elif there is not None:
            entry.size, entry.sha256 = _digest(source, ranges)
            if pool is not None and pool.has(path, entry.size, entry.sha256):
                on_bytes(entry.size)
                return 0
            with writing(path):
                os.unlink(path)
    _copy_regular(path, source, ranges, entry, into, on_bytes)
    if pool is not None and pool.settle(path, entry.size, entry.sha256):
        return 0
    return entry.size - into.kept


def _digest(source: int, ranges: Sequence[Range]) -> tuple[int, str]:
    whole = ranges or [Range(0, os.fstat(source).st_size)]
    return sum(each.length for each in whole), digest_ranges(source, whole)


def _copy_regular(
    path: str, source: int, ranges: Sequence[Range], entry: ManifestFile, into: Fresh, on_bytes: OnBytes
) -> None:
    with writing(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        new = os.O_CREAT | os.O_EXCL if into is FRESH else 0
        target = os.open(path, os.O_RDWR | new | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if ranges:
            entry.size, entry.sha256 = copy_ranges(source, target, ranges, path, on_bytes, into)
        else:
            entry.size, entry.sha256 = copy_contents(source, target, path, on_bytes, into)
        with writing(path):
            apply_attributes(target, entry.attributes, strict=False)
    finally:
        os.close(target)
