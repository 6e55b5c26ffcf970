"""What a writer says about single files after the cut: changed since a time, or only these parts of them.

In the order of VSS: differenced files, then partial files, then the rest by its masks. A differenced file that did not
change is in the manifest as *unchanged*, so that the chain knows that it was there. Where the writer leaves the
judgement to us (time 0), a file is changed when its size, time, owner, mode or extended attributes differ from the
base's; where it names a log sequence number instead of a time, when its contents do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shadowset.requester.backup.copy import digest_file, read_attributes
from shadowset.requester.backup.listing import Found, Listing, find_file, in_order, list_roots, parents_of
from shadowset.requester.backup.manifest import FILE_KINDS, RANGES_FILE, REGULAR, SYMLINK, UNCHANGED, ManifestFile
from shadowset.requester.backup.plan import PlannedComponent, Root
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component, DifferencedFile, PartialFile
from shadowset.vss.enums import BackupType
from shadowset.vss.filespec import FileSelection, files_required
from shadowset.vss.metadata import FileSet
from shadowset.vss.ranges import Range, names_ranges_file, parse_ranges, parse_ranges_file, require_within

RootsOf = Callable[[FileSet], list[Root]]
LARGEST_RANGES_FILE = 64 << 20


@dataclass(frozen=True)
class Surroundings:
    """What is needed to look files up: where copies are mounted, where directories lie, the files of the base."""

    exposed: Mapping[str, str]
    variables: Mapping[str, str]
    roots_of: RootsOf
    base: Mapping[str, ManifestFile] | None = None


def narrow(listing: Listing, planned: PlannedComponent, component: Component, around: Surroundings) -> Listing:
    """A component's listing with what its writer said about single files.

    Errors: OSError; E_INVALIDARG and VSS_E_OBJECT_NOT_FOUND for what the writer should not have said.
    """
    entries = {one.path: one for one in listing.found}
    skipped = list(listing.skipped)
    differenced = _differenced(planned, component, around, entries)
    if not planned.why:
        for partial in component.partial_files:
            skipped += _take_parts(partial, planned, around, entries, differenced)
    gone = _gone(planned, component, around, entries)
    return Listing(in_order(entries), skipped, gone)


# ---- differenced files ----


def _differenced(
    planned: PlannedComponent, component: Component, around: Surroundings, entries: dict[str, Found]
) -> set[str]:
    """Take over what the differenced files say; returns their paths. A log backup takes log files alone."""
    judged = planned.builds_on_base
    seen = set()
    look_up = _look_up_logs if planned.backup_type is BackupType.LOG else _look_up
    for rule in component.differenced_files:
        for one in look_up(FileSet(rule.path, rule.filespec, rule.recursive), planned, around):
            if one.kind != REGULAR or not judged:
                entries.setdefault(one.path, one)
                continue
            seen.add(one.path)
            changed = _is_changed(one, rule, around.base)
            entries[one.path] = one if changed else replace(one, kind=UNCHANGED)
    return seen


def _look_up(files: FileSet, planned: PlannedComponent, around: Surroundings) -> list[Found]:
    return list_roots(around.roots_of(files), planned.excluded, around.exposed, around.variables).found


def _look_up_logs(files: FileSet, planned: PlannedComponent, around: Surroundings) -> list[Found]:
    """Only what is in the component's log files; one that is named and gone would be a gap in the log."""
    logs = FileSelection([each for member in planned.members for each in member.log_files], (), around.variables)
    if logs.file_set(f"{files.path}/{files.filespec}") is None:
        return []
    if {"*", "?"} & set(files.filespec):
        return _look_up(files, planned, around)
    found = _find(files.path, files.filespec, planned, around)
    if found is None:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"its writer names the log file {files.path}/{files.filespec}, which is there no more; see who removes it",
        )
    roots = around.roots_of(files)
    return [*(above for root in roots for above in parents_of(root, around.exposed, around.variables)), found]


def _is_changed(one: Found, rule: DifferencedFile, base: Mapping[str, ManifestFile] | None) -> bool:
    if base is None:
        return not rule.last_modified_ns or one.status.st_mtime_ns >= rule.last_modified_ns
    before = base.get(one.path)
    if before is None or before.kind != REGULAR or before.ranges:
        return True
    if rule.lsn:
        return digest_file(one.read_path, lambda count: None) != (before.size, before.sha256)
    if rule.last_modified_ns and one.status.st_mtime_ns >= rule.last_modified_ns:
        return True
    now = read_attributes(one.read_path, one.status)
    # Reading a file changes its time of last access.
    now.atime_ns = before.attributes.atime_ns
    return one.status.st_size != before.size or now != before.attributes


# ---- partial files ----


def _take_parts(
    partial: PartialFile,
    planned: PlannedComponent,
    around: Surroundings,
    entries: dict[str, Found],
    differenced: set[str],
) -> list[str]:
    """Take over one partial file; returns sentences about what is passed over."""
    one = _find(partial.path, partial.filename, planned, around)
    if one is None:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"its writer names parts of {partial.path}/{partial.filename}, which is not there; see to the writer",
        )
    if one.path in differenced:
        return [f"{one.path} is taken as a differenced file, though its writer names parts of it too"]
    ranges, ranges_file = _ranges_of(partial, planned, around)
    if ranges_file is not None:
        # One in a file set is restored like any other file; the writer gets it from there.
        entries.setdefault(ranges_file.path, ranges_file)
    require_within(ranges, one.status.st_size, one.path)
    entries[one.path] = replace(one, ranges=tuple(ranges))
    return []


def _find(directory: str, name: str, planned: PlannedComponent, around: Surroundings) -> Found | None:
    """A file by its own name, in whose directory there may be very many others."""
    for root in around.roots_of(FileSet(directory, name)):
        found = find_file(root, planned.excluded, around.exposed, around.variables)
        if found is not None:
            return found
    return None


def _ranges_of(
    partial: PartialFile, planned: PlannedComponent, around: Surroundings
) -> tuple[list[Range], Found | None]:
    if not names_ranges_file(partial.ranges):
        return parse_ranges(partial.ranges), None
    found = _find(*os.path.split(partial.ranges), planned, around)
    if found is None or found.status.st_size > LARGEST_RANGES_FILE:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"its writer names the ranges file {partial.ranges}, which is not there or too large; see to the writer",
        )
    with open(found.read_path, "rb") as file:
        return parse_ranges_file(file.read()), replace(found, kind=RANGES_FILE)


# ---- what went ----


def _gone(
    planned: PlannedComponent, component: Component, around: Surroundings, entries: Mapping[str, Found]
) -> list[str]:
    """Files of the base that are there no more, as far as this backup looked.

    Log files stay: one that its writer has cut since the base may be needed to roll forward from it.
    """
    if around.base is None or not planned.builds_on_base or planned.backup_type is BackupType.LOG:
        return []
    looked = [FileSet(each.path, each.filespec, each.recursive) for each in component.differenced_files]
    for member in planned.members:
        sets = member.files + member.database_files
        looked += [files for files in sets if files_required(files.mask, planned.backup_type)]
    selection = FileSelection(looked, planned.excluded, around.variables)
    return sorted(
        path
        for path, file in around.base.items()
        if file.kind in (*FILE_KINDS, SYMLINK) and path not in entries and selection.file_set(path) is not None
    )
