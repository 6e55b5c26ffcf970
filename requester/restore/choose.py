"""What a restore takes from a backup, judged by the metadata stored with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from shadowset.requester.backup.chain import Link, links_of
from shadowset.requester.backup.manifest import BundleError, ComponentId, Manifest, ManifestComponent, ManifestFile
from shadowset.requester.backup_components import ComponentKey
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ComponentType
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.selection import Selector, guid_key, implied_components, restore_selection, wants_restore_events

SEPARATOR = "\\"


@dataclass
class RestoreItem:
    """One explicitly backed-up component, or with ``member`` one member of the set that it defines, in one backup.

    ``files`` are what is to be put back, ``infos`` the components whose files these are; ``more`` says that a later
    backup of the chain follows, ``first`` that none came before.
    """

    link: Link
    component: ManifestComponent
    metadata: WriterMetadata
    infos: tuple[ComponentInfo, ...]
    files: list[ManifestFile]
    member: ComponentInfo | None = None
    first: bool = True
    more: bool = False
    events: bool = field(init=False)

    def __post_init__(self) -> None:
        self.events = wants_restore_events(self.metadata)

    @property
    def key(self) -> ComponentKey:
        """How the calls name the defining component."""
        component = self.component
        return ComponentKey(
            component.writer_id,
            component.instance_id,
            ComponentType[component.type],
            component.logical_path,
            component.name,
        )

    @property
    def identity(self) -> tuple[str, str, str]:
        """What is the same in all backups of a chain: class, instance name, and path of what is restored."""
        return guid_key(self.component.writer_id), self.component.instance_name, self.path

    @property
    def instance(self) -> tuple[str, str]:
        """Class and instance that were backed up, as they are compared."""
        return guid_key(self.component.writer_id), guid_key(self.component.instance_id)

    @property
    def path(self) -> str:
        """Full logical path of what is restored."""
        return self.member.full_path if self.member else self.component.full_path

    @property
    def file_sets(self) -> list[FileSet]:
        """All file sets of what is restored."""
        return [files for info in self.infos for files in info.file_sets]


def choose(
    chain: list[Link],
    wanted: tuple[Selector, ...] | None,
    excluded: tuple[Selector, ...] = (),
) -> list[list[RestoreItem]]:
    """The items to restore, for each backup of the chain; all that succeeded in the newest when ``wanted`` is None.

    Errors: VSS_E_OBJECT_NOT_FOUND for what the backup does not hold, or holds only as failed; E_INVALIDARG for a member
    that cannot be restored by itself; BundleError for a chain with a gap.
    """
    steps: list[list[RestoreItem]] = [[] for _ in chain]
    metadata = [link.metadata() for link in chain]
    numbers = {link.directory: number for number, link in enumerate(chain)}
    for component, path in _chosen(chain[-1].manifest, metadata[-1], wanted, excluded):
        through = links_of(chain, component)
        for position, (link, counterpart) in enumerate(through):
            number = numbers[link.directory]
            item = _item(link, link.files, counterpart, _metadata_of(counterpart, metadata[number]), path)
            item.first, item.more = position == 0, position < len(through) - 1
            steps[number].append(item)
    return steps


def _chosen(
    manifest: Manifest,
    metadata: dict[tuple[str, str], WriterMetadata],
    wanted: tuple[Selector, ...] | None,
    excluded: tuple[Selector, ...],
) -> list[tuple[ManifestComponent, str]]:
    """Each explicit component that is meant, with the path of what is wanted of it."""
    chosen: list[tuple[ManifestComponent, str]] = []
    for selector in wanted if wanted is not None else (None,):
        found = [
            (component, selector.path if selector and selector.path else component.full_path)
            for component in manifest.components
            if _is_meant(component, _metadata_of(component, metadata), selector)
            and not any(_excludes(one, component, _metadata_of(component, metadata)) for one in excluded)
        ]
        if selector is not None and not found:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"the backup holds no {selector}; leave it out")
        chosen += [each for each in found if each not in chosen]
    if not chosen:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, "the backup holds no component that could be restored")
    return chosen


def _metadata_of(component: ManifestComponent, metadata: dict[tuple[str, str], WriterMetadata]) -> WriterMetadata:
    try:
        return metadata[component.writer_id, component.instance_id]
    except KeyError:
        raise BundleError(
            f"the backup holds no metadata of writer {component.writer}, whose components it names; use another backup"
        ) from None


def _is_meant(component: ManifestComponent, metadata: WriterMetadata, selector: Selector | None) -> bool:
    if selector is None:
        return component.succeeded
    if not selector.names(metadata):
        return False
    inside = selector.path == component.full_path or selector.path.startswith(component.full_path + SEPARATOR)
    if selector.path and not inside:
        return False
    if not component.succeeded and selector.path:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"the backup of component {component.full_path} of writer {component.writer} failed ({component.reason}); "
            "restore it from another backup",
        )
    return component.succeeded


def _excludes(selector: Selector, component: ManifestComponent, metadata: WriterMetadata) -> bool:
    return selector.names(metadata) and selector.path in ("", component.full_path)


def _item(
    link: Link,
    files_of: dict[ComponentId, list[ManifestFile]],
    component: ManifestComponent,
    metadata: WriterMetadata,
    path: str,
) -> RestoreItem:
    explicit = [
        one.full_path
        for one in link.manifest.components
        if (one.writer_id, one.instance_id) == (component.writer_id, component.instance_id)
    ]
    selection = restore_selection(metadata, explicit, path)
    members = [selection.member or selection.defining]
    members += implied_components(metadata, [members[0].full_path]) if members[0].selectable else ()
    paths = {member.full_path for member in members}
    files = [file for file in files_of.get(component.key, []) if (file.member or file.component) in paths]
    return RestoreItem(link, component, metadata, tuple(members), files, selection.member)
