"""Whether a backup, and what was restored from it, is what was backed up: by the digests of the manifests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from shadowset.requester.backup.chain import open_chain, present
from shadowset.requester.backup.copy import OnBytes, digest_file, digest_ranges, open_source
from shadowset.requester.backup.manifest import REGULAR, SYMLINK, ManifestFile, verify_files
from shadowset.requester.observer import Observer, Silent
from shadowset.requester.restore.choose import RestoreItem, choose
from shadowset.vss.ranges import parse_ranges
from shadowset.vss.selection import Selector


class VerifyReport(msgspec.Struct, kw_only=True):
    """How many files were looked at, and a sentence about each that is not as in the backup."""

    source: str
    files: int
    differences: list[str]


def verify(
    source: str,
    wanted: tuple[Selector, ...] | None = None,
    excluded: tuple[Selector, ...] = (),
    restored: bool = False,
    observer: Observer | None = None,
) -> VerifyReport:
    """Check a backup and all that it builds on; with ``restored`` also the files at their own places.

    Errors: BundleError for the first thing in the backups that is not what was written.
    """
    watch = observer or Silent()
    chain = open_chain(source)
    steps = choose(chain, wanted, excluded)
    items = [item for each in steps for item in each]
    watch.phase("checking the backup")
    on_bytes = watch.begin(sum(file.size for item in items for file in item.files))
    for item in items:
        verify_files(item.link.directory, item.files, on_bytes)
    watch.end()
    count, differences = sum(1 for item in items for file in item.files if file.kind == REGULAR), []
    if restored:
        watch.phase("checking the files in their places")
        files = [file for item in steps[-1] for file in _expected(present(chain, item.component), item)]
        on_bytes = watch.begin(sum(file.size for file in files))
        differences = [text for file in files if (text := difference(file, file.path, on_bytes))]
        watch.end()
        count = len(files)
    return VerifyReport(source=os.path.abspath(source), files=count, differences=differences)


def _expected(files: dict[str, ManifestFile], item: RestoreItem) -> Iterator[ManifestFile]:
    """Files and links of what an item restores."""
    paths = {info.full_path for info in item.infos}
    for file in files.values():
        if file.kind in (REGULAR, SYMLINK) and (file.member or file.component) in paths:
            yield file


def difference(file: ManifestFile, place: str, on_bytes: OnBytes) -> str:
    """What is wrong with a file that should be at ``place``, as a sentence; empty when it is as it was backed up."""
    try:
        if file.kind == SYMLINK:
            return "" if os.readlink(place) == file.link else f"{place} points elsewhere than in the backup"
        if file.ranges:
            return _parts_difference(file, place)
        size, digest = digest_file(place, on_bytes)
    except OSError as error:
        return f"{place} cannot be read: {error.strerror}"
    if size != file.size:
        return f"{place} has {size} bytes, {file.size} in the backup"
    return "" if digest == file.sha256 else f"{place} has other contents than in the backup"


def _parts_difference(file: ManifestFile, place: str) -> str:
    source = open_source(place)
    try:
        same = digest_ranges(source, parse_ranges(file.ranges)) == file.sha256
    finally:
        os.close(source)
    return "" if same else f"{place} has other contents than in the backup, in the parts that were backed up"
