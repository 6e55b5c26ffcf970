"""Putting the files of one component in place.

Two steps, so that a component's old files stay whole until all new ones are there. *Staging* writes every file under
a temporary name beside its place, brings all to the disk, reads them back from there and compares with the manifest;
any failure removes what was staged and has changed nothing. *Committing* moves stale files aside, renames everything
into place, and removes what was moved aside. Stale are files that belong to the component's file sets and are not in
the backup: a newer write-ahead log beside an older data base would spoil it, so at no instant do the two stand
together. Staging needs room for the component a second time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping

from shadowset.requester.backup.copy import (
    OnBytes,
    apply_attributes,
    copy_contents,
    digest_file,
    open_source,
    sync_file_system,
    writing,
)
from shadowset.requester.backup.leftovers import is_moved_aside, new_token
from shadowset.requester.backup.manifest import (
    DIRECTORY,
    PARENT,
    REGULAR,
    SYMLINK,
    UNCHANGED,
    BundleError,
    ManifestFile,
)
from shadowset.requester.restore.parts import apply_to_file, copy_aside, write_parts
from shadowset.requester.restore.pending import Swap
from shadowset.requester.restore.puts import Put
from shadowset.requester.restore.stale import leftovers_in
from shadowset.vss.codes import Code, VssError


class Placement:
    """Where the files of one component go."""

    def __init__(self, bundle: str, puts: Iterable[Put], strict: bool = True, pending: bool = False) -> None:
        """Not ``strict`` forgives attributes that the destination cannot have. ``pending``: it is to be deferred."""
        self._bundle = bundle
        self._strict = strict
        # What replaces a file comes before what changes parts of it.
        self._puts = sorted(puts, key=lambda put: bool(put.spans))
        self._token = new_token(pending)
        self._staged: list[tuple[str, str]] = []
        self._unchecked: dict[str, tuple[ManifestFile, str]] = {}
        self._aside: list[tuple[str, str]] = []
        self._made: list[str] = []
        self._leftovers: list[str] = []
        self.touched = False

    def require_replaceable(self) -> None:
        """Check, before anything is written, that every file can take its place. Errors: VssError naming the first."""
        for put in self._puts:
            if put.file.kind in (REGULAR, SYMLINK):
                _require_replaceable(put.destination)
            elif put.file.kind == UNCHANGED and not os.path.isfile(put.destination):
                raise VssError(
                    Code.VSS_E_BAD_STATE,
                    f"{put.destination} should be there from the backup that this one builds on; restore that one",
                )

    def existing(self) -> str:
        """The first destination where there is a file already, or ""."""
        for put in self._puts:
            if put.file.kind in (REGULAR, SYMLINK) and os.path.lexists(put.destination):
                return put.destination
        return ""

    def clear(self) -> list[str]:
        """Remove what a killed restore was writing, before the room for it is needed again; returns all it left.

        What it had moved aside is removed only by ``commit``: until then it belongs to the old files.
        Errors: TargetError.
        """
        places = {put.destination for put in self._puts}
        directories = {os.path.dirname(path) for path in places}
        directories |= {put.destination for put in self._puts if put.file.kind == DIRECTORY}
        found = [path for directory in sorted(directories) for path in leftovers_in(directory) if path not in places]
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
            for number, put in enumerate(self._puts):
                if put.spans:
                    self._stage_parts(number, put, on_bytes)
                elif put.file.kind in (REGULAR, SYMLINK):
                    self._stage_one(number, put.file, put.destination, on_bytes)
            self._check_staged()
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

    def defer(self) -> list[Swap]:
        """Leave what is staged beside its places, durable; returns what is still to be done. Errors: TargetError."""
        swaps = []
        for temporary, destination in self._staged:
            digest = "" if os.path.islink(temporary) else digest_file(temporary, lambda count: None)[1]
            swaps.append(Swap(temporary=temporary, destination=destination, sha256=digest))
        self._sync({os.path.dirname(temporary) for temporary, _ in self._staged})
        return swaps

    def _sync(self, directories: set[str]) -> None:
        for directory in directories | {os.path.dirname(made) for made in self._made}:
            _sync_directory(directory)

    def _make_directories(self) -> None:
        wanted = {put.destination: put.file for put in self._puts if put.file.kind in (DIRECTORY, PARENT)}
        needed = {put.destination for put in self._puts if put.file.kind == DIRECTORY}
        needed |= {os.path.dirname(put.destination) for put in self._puts if put.file.kind in (REGULAR, SYMLINK)}
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
        self._unchecked[temporary] = file, destination

    def _check_staged(self) -> None:
        """Bring all to the disk, once for each file system, and read it back from there."""
        places = {os.path.dirname(temporary) for temporary in self._unchecked}
        for place in {os.stat(place).st_dev: place for place in places}.values():
            sync_file_system(place)
        for temporary in list(self._unchecked):
            self._check(temporary)

    def _check(self, temporary: str) -> None:
        file, destination = self._unchecked.pop(temporary)
        with writing(destination):
            if digest_file(temporary, lambda count: None) != (file.size, file.sha256):
                raise VssError(
                    Code.VSS_E_UNEXPECTED,
                    f"{destination} reads back from the disk other than it was written; look at the disk",
                )

    def _stage_parts(self, number: int, put: Put, on_bytes: OnBytes) -> None:
        """Change parts of what is staged for the destination, or of a copy of what is there."""
        temporary = next((each for each, destination in self._staged if destination == put.destination), "")
        there = bool(temporary) or os.path.isfile(put.destination)
        if temporary in self._unchecked:
            self._check(temporary)
        if not temporary:
            temporary = f"{os.path.dirname(put.destination)}/{self._token}-{number}"
            self._staged.append((temporary, put.destination))
            copy_aside(put.destination, temporary)
        attributes = put.file.attributes if put.own or not there else None
        source = self._open_stored(put.file)
        try:
            write_parts(source, temporary, put, on_bytes)
        finally:
            os.close(source)
        if attributes is not None:
            with writing(put.destination):
                apply_to_file(temporary, attributes, self._strict)

    def _open_stored(self, file: ManifestFile) -> int:
        try:
            return open_source(f"{self._bundle}/{file.stored}")
        except OSError as error:
            raise BundleError(f"{self._bundle}/{file.stored} cannot be read: {error.strerror}") from error

    def _write(self, file: ManifestFile, temporary: str, destination: str, on_bytes: OnBytes) -> None:
        source = self._open_stored(file)
        try:
            with writing(destination):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                target = os.open(temporary, flags, 0o600)
            try:
                written = copy_contents(source, target, destination, on_bytes)
                with writing(destination):
                    apply_attributes(target, file.attributes, strict=self._strict)
            finally:
                os.close(target)
        finally:
            os.close(source)
        if written != (file.size, file.sha256):
            raise BundleError(f"{self._bundle}/{file.stored} changed while it was restored; use another backup")

    def _finish_directories(self) -> None:
        """Directories last and deepest first: every entry made in one changes its time."""
        directories = [put for put in self._puts if put.file.kind in (DIRECTORY, PARENT)]
        own = [put for put in directories if (put.file.kind == DIRECTORY and put.own) or put.destination in self._made]
        for put in sorted(own, key=lambda put: put.destination, reverse=True):
            if os.path.isdir(put.destination) and not os.path.islink(put.destination):
                with writing(put.destination):
                    _apply_to_directory(put.destination, put.file, self._strict)


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
