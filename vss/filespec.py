"""File sets as path strings: patterns, variables, exclusion, alternate paths, and what each backup type asks for.

A file set is a directory, a pattern for names and whether directories beneath count. In a pattern ``*`` stands for any
characters, also none, ``?`` for exactly one, and ``*.*`` for every name, also one without a dot. Names are compared
as Linux compares them: case counts, and a leading dot is nothing special. Nothing here looks at a file system, so
symbolic links are the caller's to resolve.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType, FileSetMask
from shadowset.vss.metadata import ComponentInfo, ExcludedFiles, FileSet, LocationMapping

R = TypeVar("R", FileSet, ExcludedFiles, LocationMapping)

_VARIABLE = re.compile(r"\$\$|%%|\$(\w+)|\$\{(\w+)\}|%(\w+)%", re.ASCII)
_SNAPSHOT_SHIFT = 8

_REQUIRED = {
    BackupType.INCREMENTAL: FileSetMask.INCREMENTAL_BACKUP_REQUIRED,
    BackupType.DIFFERENTIAL: FileSetMask.DIFFERENTIAL_BACKUP_REQUIRED,
    BackupType.LOG: FileSetMask.LOG_BACKUP_REQUIRED,
}


# ---- masks ----


def files_required(mask: int, backup_type: BackupType) -> bool:
    """Whether a backup of this type must make the current version of the files available after its restore.

    Full, copy, other and undefined backups go by the mask's bit for full backups.
    """
    return bool(mask & _REQUIRED.get(backup_type, FileSetMask.FULL_BACKUP_REQUIRED))


def snapshot_required(mask: int, backup_type: BackupType) -> bool:
    """Whether a backup of this type must read the files from the shadow copy."""
    return files_required(mask >> _SNAPSHOT_SHIFT, backup_type)


def created_during_backup(mask: int) -> bool:
    """Whether the files may come into being after the cut, so that they are looked for in the shadow copy only."""
    return bool(mask & FileSetMask.CREATED_DURING_BACKUP)


def candidate_file_sets(component: ComponentInfo, backup_type: BackupType) -> tuple[FileSet, ...]:
    """The file sets that a backup of this type looks at: log files alone in a log backup, otherwise all."""
    return component.log_files if backup_type == BackupType.LOG else component.file_sets


def required_file_sets(component: ComponentInfo, backup_type: BackupType) -> tuple[FileSet, ...]:
    """The file sets that a backup of this type copies whatever the age of their files."""
    return tuple(
        files for files in candidate_file_sets(component, backup_type) if files_required(files.mask, backup_type)
    )


# ---- paths ----


def expand(path: str, variables: Mapping[str, str]) -> str:
    """A path with ``$NAME``, ``${NAME}`` and ``%NAME%`` replaced once; ``$$`` and ``%%`` stand for the sign itself.

    Errors: VSS_E_OBJECT_NOT_FOUND for a variable that is not in ``variables``.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        if name is None:
            return found[0][0]
        if name not in variables:
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND, f"the path {path!r} uses the variable {name}, which is not set; set it"
            )
        return variables[name]

    return _VARIABLE.sub(value, path)


def normalise(path: str) -> str:
    """A path without doubled or trailing slashes and without ``.`` and ``..`` elements; an empty one stays empty."""
    return re.sub(r"^/+", "/", posixpath.normpath(path)) if path else ""


def is_absolute(path: str) -> bool:
    """Whether a path begins at the root, or with a variable that can bring the root with it."""
    return path.startswith("/") or bool(re.match(r"\$\w|\$\{\w+\}|%\w+%", path, re.ASCII))


def name_matches(filespec: str, name: str) -> bool:
    """Whether a file's name fits a pattern. Time grows with the product of both lengths at most."""
    if filespec == "*.*":
        return True
    at = spec_at = 0
    star = star_name = -1
    while at < len(name):
        if spec_at < len(filespec) and filespec[spec_at] == "*":
            star, star_name = spec_at, at
            spec_at += 1
        elif spec_at < len(filespec) and filespec[spec_at] in ("?", name[at]):
            at += 1
            spec_at += 1
        elif star >= 0:
            star_name += 1
            at, spec_at = star_name, star + 1
        else:
            return False
    return not filespec[spec_at:].strip("*")


def contains(directory: str, path: str) -> bool:
    """Whether a path lies in a directory or beneath it, both normalised; a directory contains itself."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def matches(rule: R, path: str, variables: Mapping[str, str]) -> bool:
    """Whether a file's normal path belongs to a file set, an exclusion or a mapping."""
    return PathIndex([rule], variables).find(path) is not None


def _rebase(path: str, old: str, new: str) -> str:
    if not contains(old, path):
        raise VssError(Code.E_INVALIDARG, f"{path!r} does not lie in {old!r}, so it cannot be moved to {new!r}")
    return normalise(f"{new}/{path[len(old.rstrip('/')) :]}")


def source_directory(files: FileSet, variables: Mapping[str, str]) -> str:
    """Where a backup looks for the files of a set: its alternate path when it has one."""
    return normalise(expand(files.alternate_path or files.path, variables))


def source_path(files: FileSet, path: str, variables: Mapping[str, str]) -> str:
    """Where a backup reads the file that belongs at a normal path. Errors: E_INVALIDARG when it is not of this set."""
    directory = normalise(expand(files.path, variables))
    return _rebase(normalise(path), directory, source_directory(files, variables))


def normal_path(files: FileSet, found: str, variables: Mapping[str, str]) -> str:
    """Where a file belongs that a backup found in ``source_directory``; exclusions and restores go by this path."""
    directory = normalise(expand(files.path, variables))
    return _rebase(normalise(found), source_directory(files, variables), directory)


def mapped_path(mapping: LocationMapping, path: str, variables: Mapping[str, str]) -> str:
    """Where a restore puts a file by a location mapping. Errors: E_INVALIDARG when the mapping is not for it."""
    if not matches(mapping, path, variables):
        raise VssError(Code.E_INVALIDARG, f"the mapping of {mapping.path!r} is not for the file {path!r}")
    directory = normalise(expand(mapping.path, variables))
    return _rebase(normalise(path), directory, normalise(expand(mapping.alternate_path, variables)))


# ---- many rules, many files ----


class PathIndex(Generic[R]):
    """Rules by directory, so that a file is looked up in as many steps as its path has elements."""

    def __init__(self, rules: Iterable[R], variables: Mapping[str, str]) -> None:
        self._here: dict[str, list[tuple[int, R]]] = {}
        self._beneath: dict[str, list[tuple[int, R]]] = {}
        for order, rule in enumerate(rules):
            directory = normalise(expand(rule.path, variables))
            self._here.setdefault(directory, []).append((order, rule))
            if rule.recursive:
                self._beneath.setdefault(directory, []).append((order, rule))

    def find(self, path: str) -> R | None:
        """The first rule, in the order given, that a file's normal path fits."""
        directory, name = posixpath.split(normalise(path))
        found = [rule for rule in self._here.get(directory, ()) if name_matches(rule[1].filespec, name)]
        while self._beneath and directory not in ("", "/"):
            directory = posixpath.dirname(directory)
            found += [rule for rule in self._beneath.get(directory, ()) if name_matches(rule[1].filespec, name)]
        return min(found, key=lambda rule: rule[0])[1] if found else None


class FileSelection:
    """Which files a backup takes: those of the file sets, except the excluded ones, which always win.

    Variables are replaced once, here. Errors: VSS_E_OBJECT_NOT_FOUND for a variable that is not set.
    """

    def __init__(
        self, file_sets: Iterable[FileSet], excluded: Iterable[ExcludedFiles], variables: Mapping[str, str]
    ) -> None:
        self._included = PathIndex(file_sets, variables)
        self._excluded = PathIndex(excluded, variables)

    def is_excluded(self, path: str) -> bool:
        """Whether a file's normal path is excluded."""
        return self._excluded.find(path) is not None

    def file_set(self, path: str) -> FileSet | None:
        """The first file set that a file's normal path belongs to; None when none, or when it is excluded."""
        return None if self.is_excluded(path) else self._included.find(path)
