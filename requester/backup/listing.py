"""Which files there are: file sets looked up in the shadow copies, after these were made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shadowset.requester.backup.leftovers import is_temporary
from shadowset.requester.backup.manifest import DIRECTORY, PARENT, REGULAR, STORED, SYMLINK
from shadowset.requester.backup.plan import PlannedComponent, Root
from shadowset.vss.codes import Code, VssError
from shadowset.vss.filespec import FileSelection, created_during_backup, name_matches, normal_path
from shadowset.vss.metadata import ExcludedFiles
from shadowset.vss.ranges import Range

EVERYTHING = ("*", "*.*")
EMPTY_SUBVOLUME = 2
"""The inode number of what btrfs leaves in a snapshot where a subvolume was; that of a root directory elsewhere."""


@dataclass(frozen=True)
class Found:
    """Something to back up: where to read it, where it belongs, and which component of a set named it.

    ``ranges`` are all that is taken of a file, unless empty.
    """

    read_path: str
    path: str
    kind: str
    member: str
    status: os.stat_result
    ranges: tuple[Range, ...] = ()

    @property
    def size(self) -> int:
        """Bytes to copy."""
        if self.kind not in STORED:
            return 0
        return sum(each.length for each in self.ranges) if self.ranges else self.status.st_size


@dataclass(frozen=True)
class Listing:
    """All that a component has.

    ``skipped`` are sentences about what is passed over; ``gone`` are files of the base that are there no more.
    """

    found: list[Found]
    skipped: list[str]
    gone: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes to copy."""
        return sum(one.size for one in self.found)


def list_component(component: PlannedComponent, exposed: Mapping[str, str], variables: Mapping[str, str]) -> Listing:
    """Look a component's file sets up. ``exposed`` is where each volume's copy is mounted. Errors: OSError."""
    return list_roots(component.roots, component.excluded, exposed, variables)


def list_roots(
    roots: Sequence[Root],
    excluded: Iterable[ExcludedFiles],
    exposed: Mapping[str, str],
    variables: Mapping[str, str],
) -> Listing:
    """All that there is in these directories and is not excluded. Errors: OSError."""
    selection = FileSelection((), excluded, variables)
    entries: dict[str, Found] = {}
    skipped: list[str] = []
    directories = {root.directory for root in roots if root.nested}
    for root in [*roots, *_made_after_the_cut(roots)]:
        for one in _look_through(root, directories, exposed, variables):
            if one.kind == "":
                if not selection.is_excluded(one.path):
                    skipped.append(f"{one.path} is a socket, FIFO or device node")
            elif one.kind == PARENT or not selection.is_excluded(one.path):
                _keep(entries, one)
    return Listing(in_order(entries), skipped)


def find_file(
    root: Root, excluded: Iterable[ExcludedFiles], exposed: Mapping[str, str], variables: Mapping[str, str]
) -> Found | None:
    """The one regular file that ``root.files.filespec`` names literally; None when there is none. Errors: OSError."""
    name = root.files.filespec
    read_path, live = f"{_read_directory(root, exposed)}/{name}", f"{root.directory.rstrip('/')}/{name}"
    try:
        status = os.lstat(read_path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode) or FileSelection((), excluded, variables).is_excluded(live):
        return None
    return Found(read_path, live, REGULAR, root.member.full_path, status)


def in_order(entries: Mapping[str, Found]) -> list[Found]:
    """Entries by path, with only those directories above file sets that something lies in."""
    return _without_idle_parents(sorted(entries.values(), key=lambda one: one.path))


def _made_after_the_cut(roots: Sequence[Root]) -> list[Root]:
    """Where to look on the live volume as well: for what a writer makes in PostSnapshot, unless a copy has it."""
    return [replace(root, place=None) for root in roots if root.place and created_during_backup(root.files.mask)]


def _keep(entries: dict[str, Found], one: Found) -> None:
    known = entries.get(one.path)
    if known is None or (known.kind == PARENT and one.kind != PARENT):
        entries[one.path] = one


def _without_idle_parents(ordered: list[Found]) -> list[Found]:
    needed = set()
    for one in ordered:
        if one.kind != PARENT:
            directory = os.path.dirname(one.path)
            while directory not in needed and directory != "/":
                needed.add(directory)
                directory = os.path.dirname(directory)
    return [one for one in ordered if one.kind != PARENT or one.path in needed]


def _read_directory(root: Root, exposed: Mapping[str, str]) -> str:
    if root.place is None:
        return root.directory
    return f"{exposed[root.place.volume].rstrip('/')}/{root.place.relative}".rstrip("/")


def _look_through(
    root: Root, others: set[str], exposed: Mapping[str, str], variables: Mapping[str, str]
) -> Iterator[Found]:
    """``others`` are mount points with a root of their own: what a mount hid is not part of what was seen."""
    top = _read_directory(root, exposed)
    if not os.path.isdir(top):
        return
    yield from parents_of(root, exposed, variables)
    device = os.stat(top).st_dev
    pending = [(top, root.directory)]
    while pending:
        directory, live = pending.pop()
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            read_path, seen_as = f"{directory}/{name}", f"{live.rstrip('/')}/{name}"
            status = os.lstat(read_path)
            below = stat.S_ISDIR(status.st_mode) and root.files.recursive and seen_as not in others
            if below and root.place and status.st_ino == EMPTY_SUBVOLUME:
                message = (
                    f"{seen_as} is a subvolume of its own, which the copy does not have; mount it, or leave it out"
                )
                raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message)
            below = below and status.st_dev == device
            if below:
                pending.append((read_path, seen_as))
            kind = _kind(root, name, status)
            if kind is not None:
                path = normal_path(root.files, seen_as, variables)
                yield Found(read_path, path, kind, root.member.full_path, status)


def _kind(root: Root, name: str, status: os.stat_result) -> str | None:
    """What a directory entry is to this file set; "" for what cannot be backed up, None for what is not of the set."""
    if stat.S_ISDIR(status.st_mode):
        if not root.files.recursive:
            return None
        return DIRECTORY if root.files.filespec in EVERYTHING else PARENT
    if is_temporary(name) or not name_matches(root.files.filespec, name):
        return None
    if stat.S_ISREG(status.st_mode):
        return REGULAR
    return SYMLINK if stat.S_ISLNK(status.st_mode) else ""


def parents_of(root: Root, exposed: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[Found]:
    """The file set's own directory and those above it, up to the volume's root, for a restore that has to make them."""
    elements = root.place.relative.split("/") if root.place and root.place.relative else []
    if not elements or root.files.alternate_path or not root.directory.endswith("/" + "/".join(elements)):
        return
    assert root.place is not None
    read_path = exposed[root.place.volume].rstrip("/")
    live = root.directory.removesuffix("/" + "/".join(elements))
    for element in elements:
        read_path, live = f"{read_path}/{element}", f"{live}/{element}"
        path = normal_path(root.files, live, variables) if live == root.directory else live
        yield Found(read_path, path, PARENT, root.member.full_path, os.lstat(read_path))
