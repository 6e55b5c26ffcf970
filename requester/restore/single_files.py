"""Single files of a backup, back to their places or below another directory, without their writers."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from shadowset.requester.backup.chain import Link, open_chain, present
from shadowset.requester.backup.copy import apply_attributes, writing
from shadowset.requester.backup.manifest import FILE_KINDS, REGULAR, ManifestComponent
from shadowset.requester.restore.extract import assemble
from shadowset.vss.codes import Code, VssError

Existing = Literal["skip", "overwrite", "keep-both"]


class FileReport(msgspec.Struct, kw_only=True):
    """One file: where it went, "" when nothing was written, since one is there and was to stay."""

    path: str
    place: str
    bytes: int = 0


class _Wanted(NamedTuple):
    component: ManifestComponent
    path: str


def restore_files(
    directory: str, pattern: str, existing: Existing = "skip", below: str = "", dry_run: bool = False
) -> list[FileReport]:
    """Restore the regular files whose path, or last element, fits a shell pattern.

    ``below``: a directory under which they get their own paths again; else they go to their own places. One that is
    there already stays, is replaced, or stays beside the restored one, which is named after the backup's time.
    Errors: BundleError, TargetError; VSS_E_OBJECT_NOT_FOUND when nothing fits.
    """
    chain = open_chain(directory)
    wanted = list(_wanted(chain, pattern))
    if not wanted:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"no file of {directory} fits {pattern}; see 'shadowset backups {directory} --file PATTERN'",
        )
    reports = []
    for each in wanted:
        place = _place(f"{os.path.abspath(below)}{each.path}" if below else each.path, existing, chain[-1])
        size = _restore(chain, each, place) if place and not dry_run else 0
        reports.append(FileReport(path=each.path, place=place, bytes=size))
    return reports


def _wanted(chain: list[Link], pattern: str) -> Iterator[_Wanted]:
    seen = set()
    for component in chain[-1].manifest.components:
        listed = {file.path for file in chain[-1].files.get(component.key, []) if file.kind in FILE_KINDS}
        for path, file in present(chain, component).items() if component.succeeded else ():
            named = fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(os.path.basename(path), pattern)
            if named and file.kind == REGULAR and path in listed and path not in seen:
                seen.add(path)
                yield _Wanted(component, path)


def _place(path: str, existing: Existing, newest: Link) -> str:
    if not os.path.lexists(path) or existing == "overwrite":
        return path
    if existing == "skip":
        return ""
    stem, suffix = os.path.splitext(path)
    moment = newest.manifest.created.replace(":", "")
    number, place = 1, f"{stem}.{moment}{suffix}"
    while os.path.lexists(place):
        number += 1
        place = f"{stem}.{moment}-{number}{suffix}"
    return place


def _restore(chain: list[Link], wanted: _Wanted, place: str) -> int:
    """Whole, with its attributes, under a temporary name first. Returns its size."""
    above = os.path.dirname(place)
    with writing(place):
        if os.path.isdir(place) and not os.path.islink(place):
            raise VssError(Code.E_INVALIDARG, f"{place} is a directory now; move it away, or restore elsewhere")
        os.makedirs(above, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".shadowset-", dir=above)
    try:
        try:
            entry = assemble(chain, wanted.component, wanted.path, descriptor)
            with writing(place):
                apply_attributes(descriptor, entry.attributes, strict=True)
                os.fsync(descriptor)
                size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        with writing(place):
            os.rename(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise
    with writing(place):
        directory = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return size
