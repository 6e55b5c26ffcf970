"""What a restore takes from a backup, judged by the metadata stored with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from shadowset.requester.backup.manifest import BundleError, ComponentId, Manifest, ManifestComponent, ManifestFile
from shadowset.requester.backup_components import ComponentKey
from shadowset.vss.codes import Code, VssError
from shadowset.vss.documents import metadata_from_xml
from shadowset.vss.enums import ComponentType, RestoreMethodType
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.selection import Selector, guid_key, implied_components, restore_selection, wants_restore_events

SEPARATOR = "\\"

METHODS = (
    RestoreMethodType.RESTORE_IF_NOT_THERE,
    RestoreMethodType.RESTORE_IF_CAN_REPLACE,
    RestoreMethodType.RESTORE_TO_ALTERNATE_LOCATION,
)


@dataclass
class RestoreItem:
    """One explicitly backed-up component, or with ``member`` one member of the set that it defines.

    ``files`` are what is to be put back, ``infos`` the components whose files these are.
    """

    component: ManifestComponent
    metadata: WriterMetadata
    infos: tuple[ComponentInfo, ...]
    files: list[ManifestFile]
    member: ComponentInfo | None = None
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


def stored_metadata(manifest: Manifest, texts: dict[str, str]) -> dict[tuple[str, str], WriterMetadata]:
    """The stored writer metadata by class id and instance id. Errors: VssError for a document that cannot be read."""
    return {
        (document.writer_id, document.instance_id): metadata_from_xml(texts[document.path])
        for document in manifest.documents
        if document.writer_id
    }


def choose(
    manifest: Manifest,
    metadata: dict[tuple[str, str], WriterMetadata],
    wanted: tuple[Selector, ...] | None,
    excluded: tuple[Selector, ...] = (),
) -> list[RestoreItem]:
    """The items to restore; all that succeeded when ``wanted`` is None.

    Errors: VSS_E_OBJECT_NOT_FOUND for what the backup does not hold, or holds only as failed; E_INVALIDARG for a member
    that cannot be restored by itself.
    """
    items: list[RestoreItem] = []
    files_of = manifest.files_by_component()
    for selector in wanted if wanted is not None else (None,):
        found = [
            _item(manifest, files_of, component, _metadata_of(component, metadata), selector)
            for component in manifest.components
            if _is_meant(component, _metadata_of(component, metadata), selector)
            and not any(_excludes(one, component, _metadata_of(component, metadata)) for one in excluded)
        ]
        if selector is not None and not found:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"the backup holds no {selector}; leave it out")
        items += [item for item in found if all(item.path != other.path or item.key != other.key for other in items)]
    if not items:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, "the backup holds no component that could be restored")
    return items


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
    manifest: Manifest,
    files_of: dict[ComponentId, list[ManifestFile]],
    component: ManifestComponent,
    metadata: WriterMetadata,
    selector: Selector | None,
) -> RestoreItem:
    explicit = [
        one.full_path
        for one in manifest.components
        if (one.writer_id, one.instance_id) == (component.writer_id, component.instance_id)
    ]
    path = selector.path if selector and selector.path else component.full_path
    selection = restore_selection(metadata, explicit, path)
    members = [selection.member or selection.defining]
    members += implied_components(metadata, [members[0].full_path]) if members[0].selectable else ()
    paths = {member.full_path for member in members}
    mine = files_of.get(component.key, [])
    files = [file for file in mine if (file.member or file.component) in paths]
    return RestoreItem(component, metadata, tuple(members), files, selection.member)


def refuse_methods(items: list[RestoreItem]) -> None:
    """Refuse what a writer wants done that this requester does not do. Errors: VSS_E_NOT_SUPPORTED."""
    for item in items:
        method = item.metadata.restore_method
        if method.method not in METHODS:
            service = f" with service {method.service!r}" if method.service else ""
            raise VssError(
                Code.VSS_E_NOT_SUPPORTED,
                f"writer {item.metadata.name} wants its components restored by {method.method.name}{service}, which "
                "this requester does not do; restore the files with --to DIR and put them in place by hand",
            )
