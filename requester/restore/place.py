"""Putting the files of one component in place.

Two steps, so that a component's old files stay whole until all new ones are there. *Staging* writes every file under
a temporary name beside its place, brings it to the disk, reads it back from there and compares it with the manifest;
any failure removes what was staged and has changed nothing. *Committing* moves stale files aside, renames everything
into place, and removes what was moved aside. Stale are files that belong to the component's file sets and are not in
the backup: a newer write-ahead log beside an older data base would spoil it, so at no instant do the two stand
together. Staging needs room for the component a second time.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping

from shadowset.requester.backup.copy import (
    OnBytes,
    apply_attributes,
    copy_contents,
    digest_file,
    open_source,
    writing,
)
from shadowset.requester.backup.leftovers import is_leftover, is_moved_aside, new_token
from shadowset.requester.backup.manifest import DIRECTORY, PARENT, REGULAR, SYMLINK, BundleError, ManifestFile
from shadowset.vss.codes import Code, VssError
from shadowset.vss.filespec import FileSelection, expand, normalise
from shadowset.vss.metadata import ExcludedFiles, FileSet


class Placement:
    """Where the files of one component go: pairs of manifest entry and destination."""

    def __init__(self, bundle: str, pairs: Iterable[tuple[ManifestFile, str]], strict: bool = True) -> None:
        """Not ``strict`` forgives attributes that the destination cannot have."""
        self._bundle = bundle
        self._strict = strict
        self._pairs = list(pairs)
        self._token = new_token()
        self._staged: list[tuple[str, str]] = []
        self._aside: list[tuple[str, str]] = []
        self._made: list[str] = []
        self._leftovers: list[str] = []
        self.touched = False

    def require_replaceable(self) -> None:
        """Check, before anything is written, that every file can take its place. Errors: VssError naming the first."""
        for file, destination in self._pairs:
            if file.kind in (REGULAR, SYMLINK):
                _require_replaceable(destination)

    def existing(self) -> str:
        """The first destination where there is a file already, or ""."""
        for file, destination in self._pairs:
            if file.kind in (REGULAR, SYMLINK) and os.path.lexists(destination):
                return destination
        return ""

    def clear(self) -> list[str]:
        """Remove what a killed restore was writing, before the room for it is needed again; returns all it left.

        What it had moved aside is removed only by ``commit``: until then it belongs to the old files.
        Errors: TargetError.
        """
        places = {destination for _, destination in self._pairs}
        directories = {os.path.dirname(path) for path in places}
        directories |= {destination for file, destination in self._pairs if file.kind == DIRECTORY}
        found = [path for directory in sorted(directories) for path in _leftovers_in(directory) if path not in places]
        for path in found:
            if not is_moved_aside(os.path.basename(path)):
                with writing(path):
                    os.unlink(path)
        self._leftovers = [path for path in found if is_moved_aside(os.path.basename(path))]
        return found

    def stage(self, on_bytes: OnBytes) -> None:
        """Write everything under temporary names and check it. Errors: TargetError, BundleError; nothing is changed."""
        try:
            self._make_directories()
            for number, (file, destination) in enumerate(self._pairs):
                if file.kind in (REGULAR, SYMLINK):
                    self._stage_one(number, file, destination, on_bytes)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Remove what was staged and the directories made for it; move back what was moved aside, if all is old."""
        for temporary, path in self._aside if not self.touched else ():
            with contextlib.suppress(OSError):
                os.rename(temporary, path)
        for temporary, _ in self._staged:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        for directory in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        self._staged.clear()

    def commit(self, stale: Iterable[str] = ()) -> list[str]:
        """Rename everything into place and remove the ``stale`` files; returns those. Errors: TargetError."""
        for number, path in enumerate(stale):
            temporary = f"{os.path.dirname(path)}/{self._token}-stale-{number}"
            with writing(path):
                os.rename(path, temporary)
            self._aside.append((temporary, path))
        self._sync({os.path.dirname(path) for _, path in self._aside})
        for temporary, destination in self._staged:
            with writing(destination):
                os.rename(temporary, destination)
            self.touched = True
        self.touched = True
        for temporary, path in self._aside:
            with writing(path):
                os.unlink(temporary)
        for path in self._leftovers:
            with writing(path):
                os.unlink(path)
        self._finish_directories()
        self._sync({os.path.dirname(path) for _, path in self._staged + self._aside})
        return [path for _, path in self._aside]

    def _sync(self, directories: set[str]) -> None:
        for directory in directories | {os.path.dirname(made) for made in self._made}:
            _sync_directory(directory)

    def _make_directories(self) -> None:
        wanted = {destination: file for file, destination in self._pairs if file.kind in (DIRECTORY, PARENT)}
        needed = {destination for file, destination in self._pairs if file.kind == DIRECTORY}
        needed |= {os.path.dirname(destination) for file, destination in self._pairs if file.kind in (REGULAR, SYMLINK)}
        for directory in sorted(needed):
            self._make_directory(directory, wanted)

    def _make_directory(self, directory: str, wanted: Mapping[str, ManifestFile]) -> None:
        missing = []
        while not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for path in reversed(missing):
            with writing(path):
                os.mkdir(path, 0o755)
                self._made.append(path)
                file = wanted.get(path)
                if file is not None:
                    _apply_to_directory(path, file, self._strict)

    def _stage_one(self, number: int, file: ManifestFile, destination: str, on_bytes: OnBytes) -> None:
        temporary = f"{os.path.dirname(destination)}/{self._token}-{number}"
        self._staged.append((temporary, destination))
        if file.kind == SYMLINK:
            with writing(destination):
                os.symlink(file.link, temporary)
                apply_attributes(temporary, file.attributes, strict=self._strict)
            return
        self._write(file, temporary, destination, on_bytes)
        with writing(destination):
            if digest_file(temporary, lambda count: None) != (file.size, file.sha256):
                raise VssError(
                    Code.VSS_E_UNEXPECTED,
                    f"{destination} reads back from the disk other than it was written; look at the disk",
                )

    def _write(self, file: ManifestFile, temporary: str, destination: str, on_bytes: OnBytes) -> None:
        try:
            source = open_source(f"{self._bundle}/{file.stored}")
        except OSError as error:
            raise BundleError(f"{self._bundle}/{file.stored} cannot be read: {error.strerror}") from error
        try:
            with writing(destination):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                target = os.open(temporary, flags, 0o600)
            try:
                written = copy_contents(source, target, destination, on_bytes)
                with writing(destination):
                    apply_attributes(target, file.attributes, strict=self._strict)
                    os.fsync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)
        if written != (file.size, file.sha256):
            raise BundleError(f"{self._bundle}/{file.stored} changed while it was restored; use another backup")

    def _finish_directories(self) -> None:
        """Directories last and deepest first: every entry made in one changes its time."""
        own = [(file, destination) for file, destination in self._pairs if file.kind == DIRECTORY]
        own += [
            (file, destination)
            for file, destination in self._pairs
            if file.kind == PARENT and destination in self._made
        ]
        for file, destination in sorted(own, key=lambda pair: pair[1], reverse=True):
            if os.path.isdir(destination) and not os.path.islink(destination):
                with writing(destination):
                    _apply_to_directory(destination, file, self._strict)


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
    known = {directory for path in keep for directory in _ancestors(path)}
    stale = set()
    for files in file_sets:
        top = normalise(expand(files.path, variables))
        for path in _walk(top, files.recursive, known):
            if path not in keep and selection.file_set(path) is not None:
                stale.add(path)
    return sorted(stale)


def _leftovers_in(directory: str) -> list[str]:
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
                yield path
            elif stat.S_ISDIR(status.st_mode) and recursive and (status.st_dev == device or path in known):
                pending.append(path)


def _ancestors(path: str) -> Iterable[str]:
    directory = os.path.dirname(path)
    while directory != "/":
        yield directory
        directory = os.path.dirname(directory)


def _require_replaceable(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        raise VssError(Code.VSS_E_BAD_STATE, f"{path} is a directory where the backup has a file; move it away")
    directory = os.path.dirname(path)
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
        raise VssError(
            Code.E_ACCESSDENIED, f"{path} cannot be replaced: {directory} is no directory that can be written"
        )


def _apply_to_directory(path: str, file: ManifestFile, strict: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        apply_attributes(descriptor, file.attributes, strict=strict)
    finally:
        os.close(descriptor)


def _sync_directory(path: str) -> None:
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
