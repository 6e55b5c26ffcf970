"""Files on the live system that a restore has to deal with: stale ones, and what a killed restore left."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from shadowset.requester.backup.leftovers import is_leftover, is_pending
from shadowset.vss.filespec import FileSelection, expand, normalise
from shadowset.vss.metadata import ExcludedFiles, FileSet


def stale_files(
    file_sets: list[FileSet],
    excluded: Iterable[ExcludedFiles],
    kept: Iterable[str],
    variables: Mapping[str, str],
) -> list[str]:
    """Files on the live system that belong to these file sets and are not among ``kept`` (normal paths).

    Excluded files are nobody's. Another file system below a recursive set is only looked into where the backup has
    files in it. Errors: OSError.
    """
    selection = FileSelection(file_sets, excluded, variables)
    keep = set(kept)
    known = {directory for path in keep for directory in parents(path)}
    stale = set()
    for files in file_sets:
        top = normalise(expand(files.path, variables))
        for path in _walk(top, files.recursive, known):
            if path not in keep and selection.file_set(path) is not None:
                stale.add(path)
    return sorted(stale)


def leftovers_in(directory: str) -> list[str]:
    """The temporary files of killed restores in a directory."""
    if not os.path.isdir(directory):
        return []
    with os.scandir(directory) as entries:
        return [
            f"{directory.rstrip('/')}/{entry.name}"
            for entry in entries
            if is_leftover(entry.name) and entry.is_file(follow_symlinks=False)
        ]


def _walk(top: str, recursive: bool, known: set[str]) -> Iterable[str]:
    if not os.path.isdir(top):
        return
    device = os.stat(top).st_dev
    pending = [top]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            path = f"{directory.rstrip('/')}/{name}"
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                if not is_pending(name):
                    yield path
            elif stat.S_ISDIR(status.st_mode) and recursive and (status.st_dev == device or path in known):
                pending.append(path)


def parents(path: str) -> Iterable[str]:
    """The directories above a path, without the root."""
    directory = os.path.dirname(path)
    while directory != "/":
        yield directory
        directory = os.path.dirname(directory)
