"""What a user wishes of a restore beyond bringing the files back, by component, and handing it to the coordinator."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from shadowset.requester.backup.chain import document_component
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.restore.choose import RestoreItem
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.enums import BackupSchema, RollForward
from shadowset.vss.filespec import contains, expand, normalise
from shadowset.vss.metadata import FileSet, LocationMapping
from shadowset.vss.ranges import names_ranges_file
from shadowset.vss.selection import Selector


@dataclass(frozen=True)
class Relocation:
    """Files of a component that lie in ``directory`` or beneath it are to be restored in ``destination``."""

    selector: Selector
    directory: str
    destination: str


@dataclass(frozen=True)
class Wishes:
    """Each is a list of pairs of who and what; a selector without a path means all components of the writer.

    ``instances`` are the running instances that take what was backed up of another one.
    """

    options: tuple[tuple[Selector, str], ...] = ()
    authoritative: tuple[Selector, ...] = ()
    all_authoritative: bool = False
    names: tuple[tuple[Selector, str], ...] = ()
    roll_forward: tuple[tuple[Selector, RollForward, str], ...] = ()
    relocations: tuple[Relocation, ...] = ()
    instances: tuple[tuple[Selector, str], ...] = ()

    def selectors(self) -> list[Selector]:
        """All who are named."""
        pairs = [selector for selector, _ in (*self.options, *self.names, *self.instances)]
        rolled = [selector for selector, _, _ in self.roll_forward]
        return [*pairs, *rolled, *self.authoritative, *(each.selector for each in self.relocations)]

    def instance_for(self, item: RestoreItem) -> str:
        """The instance that is to take an item, or an empty string."""
        return next((instance for selector, instance in self.instances if _means(selector, item)), "")


def _means(selector: Selector, item: RestoreItem) -> bool:
    return selector.names(item.metadata) and selector.path in ("", item.component.full_path)


def require_known(wishes: Wishes, items: list[RestoreItem]) -> None:
    """Errors: VSS_E_OBJECT_NOT_FOUND for a wish about what is not restored."""
    for selector in wishes.selectors():
        if not any(_means(selector, item) for item in items):
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND, f"nothing of {selector} is restored, so nothing can be wished for it"
            )


def tell(calls: BackupComponents, item: RestoreItem, wishes: Wishes, variables: Mapping[str, str]) -> None:
    """Hand all wishes about an item over. Errors: VSS_E_NOT_SUPPORTED where its writer lacks the schema bit."""
    key = item.key
    if item.more:
        calls.set_additional_restores(key, True)
    for selector, options in wishes.options:
        if _means(selector, item):
            calls.set_restore_options(key, options)
    if any(_means(selector, item) for selector in wishes.authoritative):
        calls.set_authoritative_restore(key, True)
    elif wishes.all_authoritative:
        _tell_authoritative(calls, item)
    for selector, name in wishes.names:
        if _means(selector, item):
            calls.set_restore_name(key, name)
    for selector, roll_forward, point in wishes.roll_forward:
        if _means(selector, item):
            calls.set_roll_forward(key, roll_forward, point)
    for target in new_targets(item, wishes, variables):
        calls.add_new_target(key, target.path, target.filespec, target.recursive, target.alternate_path)


def _tell_authoritative(calls: BackupComponents, item: RestoreItem) -> None:
    """To a writer whose schema knows it by the call, to another one by the published option."""
    if item.metadata.backup_schema & BackupSchema.AUTHORITATIVE_RESTORE:
        calls.set_authoritative_restore(item.key, True)
    else:
        calls.set_restore_options(item.key, '"Authoritative"="All"')


def new_targets(item: RestoreItem, wishes: Wishes, variables: Mapping[str, str]) -> list[LocationMapping]:
    """The file sets of an item that go elsewhere. Errors: VSS_E_OBJECT_NOT_FOUND when a relocation meets none."""
    targets: list[LocationMapping] = []
    for each in wishes.relocations:
        if not _means(each.selector, item):
            continue
        found = [_moved(files, each, variables) for files in item.file_sets]
        if not any(found):
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND,
                f"component {item.path} has no files declared in {each.directory}; name a directory of its file sets",
            )
        targets += [target for target in found if target]
    return targets


def _moved(files: FileSet, relocation: Relocation, variables: Mapping[str, str]) -> LocationMapping | None:
    directory, top = normalise(expand(files.path, variables)), normalise(relocation.directory)
    if not contains(top, directory):
        return None
    destination = normalise(f"{relocation.destination}/{os.path.relpath(directory, top)}")
    return LocationMapping(files.path, files.filespec, files.recursive, destination)


def tell_ranges_files(calls: BackupComponents, item: RestoreItem, document: BackupComponentsDocument) -> None:
    """Say where the ranges files of partial files lie now: in the backup. Errors: VssError."""
    component = document_component(document, item.component)
    stored = {file.path: file.stored for file in item.files if file.stored and not file.ranges}
    for number, partial in enumerate(component.partial_files if component else ()):
        if names_ranges_file(partial.ranges) and normalise(partial.ranges) in stored:
            place = f"{item.link.directory}/{stored[normalise(partial.ranges)]}"
            calls.set_ranges_file_path(item.key, number, place)
