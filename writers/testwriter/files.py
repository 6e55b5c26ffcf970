"""The test writer's own files: finding them, spitting copies, deleting what is safe in a shadow copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence

from shadowset.vss.filespec import (
    FileSelection,
    expand,
    matches,
    normalise,
    source_directory,
    source_path,
)
from shadowset.vss.metadata import ExcludedFiles, FileSet
from shadowset.writers.current_event import lies_in


def regular_files(directory: str, recursive: bool) -> list[str]:
    """Regular files in a directory, sorted; a directory that is not there has none."""
    found = []
    for top, directories, names in os.walk(directory):
        found += [
            path for name in names if os.path.isfile(path := os.path.join(top, name)) and not os.path.islink(path)
        ]
        if not recursive:
            break
        directories.sort()
    return sorted(found)


def files_of(
    file_sets: Iterable[FileSet], excluded: Sequence[ExcludedFiles], variables: Mapping[str, str]
) -> list[str]:
    """The files of the sets at their own places, without those that are excluded."""
    found: dict[str, None] = {}
    for files in file_sets:
        selection = FileSelection([files], excluded, variables)
        for path in regular_files(normalise(expand(files.path, variables)), files.recursive):
            if selection.file_set(path) is not None:
                found[path] = None
    return list(found)


def excluded_files(excluded: Iterable[ExcludedFiles], variables: Mapping[str, str]) -> list[str]:
    """The files that are there although they are excluded."""
    return [
        path
        for rule in excluded
        for path in regular_files(normalise(expand(rule.path, variables)), rule.recursive)
        if matches(rule, path, variables)
    ]


def spit(files: FileSet, excluded: Sequence[ExcludedFiles], variables: Mapping[str, str]) -> dict[str, str]:
    """Copies the files of a set to its alternate path; copies by originals. Errors: OSError."""
    if not files.alternate_path:
        return {}
    aside = source_directory(files, variables)
    copies = {}
    for path in files_of([files], excluded, variables):
        if path.startswith(f"{aside}/"):
            continue  # a spit directory beneath its own set
        copies[path] = source_path(files, path, variables)
        os.makedirs(os.path.dirname(copies[path]), exist_ok=True)
        shutil.copy2(path, copies[path])
    return copies


def bring_back(copies: Mapping[str, str]) -> None:
    """Undoes ``spit`` and what was deleted after it. Errors: OSError."""
    for original, copy in copies.items():
        if os.path.exists(copy):
            os.replace(copy, original)


def lies_on(path: str, mounts: Iterable[str]) -> bool:
    """Whether a file is in one of the file systems that are mounted there, and not in another mounted beneath."""
    try:
        device = os.stat(path).st_dev
        return any(lies_in(path, mount) and os.stat(mount).st_dev == device for mount in mounts)
    except OSError:
        return False


def delete(paths: Iterable[str]) -> None:
    """Deletes files that may be gone already. Errors: OSError."""
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
