"""Backups that build on others: finding the base, and what a chain of backups holds together.

A chain belongs to the requester that made it: each backup names its base by set id and by the digest of the base's
manifest, and hands the base's stamps to the writers. What another backup program does meanwhile is in neither.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.manifest import (
    BundleError,
    ComponentId,
    Manifest,
    ManifestBase,
    ManifestComponent,
    ManifestFile,
)
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument, Component
from shadowset.vss.documents import components_from_xml, metadata_from_xml
from shadowset.vss.enums import BackupType
from shadowset.vss.metadata import WriterMetadata

BUILDS_ON = {
    BackupType.INCREMENTAL: (BackupType.FULL, BackupType.INCREMENTAL),
    BackupType.DIFFERENTIAL: (BackupType.FULL,),
    BackupType.LOG: (BackupType.FULL, BackupType.INCREMENTAL, BackupType.DIFFERENTIAL, BackupType.LOG),
}


@dataclass
class Link:
    """One backup of a chain; ``texts`` are its documents by name."""

    directory: str
    manifest: Manifest
    digest: str
    texts: dict[str, str] = field(repr=False)

    @cached_property
    def files(self) -> dict[ComponentId, list[ManifestFile]]:
        """The files of each component."""
        return self.manifest.files_by_component()

    @property
    def backup_type(self) -> BackupType:
        """What kind of backup it is."""
        return BackupType[self.manifest.backup_type]

    @property
    def document(self) -> BackupComponentsDocument:
        """Its backup components document."""
        return components_from_xml(self.texts[bundle.COMPONENTS_DOCUMENT])

    def metadata(self) -> dict[tuple[str, str], WriterMetadata]:
        """The stored writer metadata by class id and instance id. Errors: VssError for one that cannot be read."""
        return {
            (document.writer_id, document.instance_id): metadata_from_xml(self.texts[document.path])
            for document in self.manifest.documents
            if document.writer_id
        }

    def as_base_of(self, directory: str) -> ManifestBase:
        """What a backup in ``directory`` remembers of this one."""
        relative = os.path.relpath(self.directory, os.path.abspath(directory))
        return ManifestBase(
            set_id=self.manifest.set_id,
            backup_type=self.manifest.backup_type,
            directory=relative,
            sha256=self.digest,
        )


def open_link(directory: str) -> Link:
    """One backup, its manifest and documents checked against their digests. Errors: BundleError."""
    top = os.path.abspath(directory)
    manifest, digest = bundle.load_with_digest(top)
    return Link(top, manifest, digest, bundle.verify_documents(top, manifest))


def open_chain(directory: str) -> list[Link]:
    """A backup and all that it builds on, oldest first. Errors: BundleError, also when a base is missing."""
    links = [open_link(directory)]
    while links[0].manifest.base is not None:
        if len(links) > 10_000:
            raise BundleError(f"{directory} builds on itself; use another backup")
        links.insert(0, _open_base(links[0], links[0].manifest.base))
    return links


def _open_base(link: Link, base: ManifestBase) -> Link:
    """Where it was, or beside: backups may have been moved together."""
    there = os.path.normpath(os.path.join(link.directory, base.directory))
    beside = os.path.join(os.path.dirname(link.directory), os.path.basename(there))
    for place in dict.fromkeys((there, beside)):
        if os.path.exists(f"{place}/{bundle.NAME}"):
            found = open_link(place)
            if found.digest == base.sha256:
                return found
    raise BundleError(
        f"{link.directory} builds on the {base.backup_type.lower()} backup of set {base.set_id}, which is not at "
        f"{there}; bring it back there"
    )


def _a(backup_type: BackupType) -> str:
    """The type with its article."""
    word = backup_type.name.lower()
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def require_base(backup_type: BackupType, base: Link | None) -> None:
    """Errors: E_INVALIDARG when a backup of this type needs a base, takes none, or not this one."""
    word = _a(backup_type)
    if backup_type not in BUILDS_ON:
        if base is not None:
            raise VssError(Code.E_INVALIDARG, f"{word} backup builds on no other one; leave the base out")
        return
    if base is None:
        raise VssError(Code.E_INVALIDARG, f"{word} backup builds on an earlier one; name its directory with --base DIR")
    if base.backup_type not in BUILDS_ON[backup_type]:
        possible = " or ".join(_a(each) for each in BUILDS_ON[backup_type])
        raise VssError(
            Code.E_INVALIDARG,
            f"{word} backup builds on {possible} backup, and {base.directory} is {_a(base.backup_type)} backup; name "
            "another base",
        )


# ---- one component through a chain ----


def counterpart(component: ManifestComponent, link: Link) -> ManifestComponent | None:
    """The same component in another backup, whatever instance id its writer had then."""
    found = [
        one
        for one in link.manifest.components
        if (one.writer_id, one.full_path) == (component.writer_id, component.full_path)
    ]
    for one in found:
        if one.instance_id == component.instance_id:
            return one
    return next((one for one in found if one.instance_name == component.instance_name), None)


def links_of(chain: list[Link], component: ManifestComponent) -> list[tuple[Link, ManifestComponent]]:
    """The backups from which a component of the newest is restored, oldest first: from the last one that has it whole.

    Errors: BundleError when a backup that it builds on does not hold it.
    """
    steps = [(chain[-1], component)]
    for link in reversed(chain[:-1]):
        if steps[0][1].whole:
            break
        found = counterpart(component, link)
        if found is None or not found.succeeded:
            raise BundleError(
                f"component {component.full_path} in {steps[0][0].directory} builds on {link.directory}, which does "
                "not hold it; use another backup"
            )
        steps.insert(0, (link, found))
    if not steps[0][1].whole and steps[0][0].manifest.base is not None:
        raise BundleError(f"component {component.full_path} is whole in no backup of its chain; use another backup")
    return steps


def present(chain: list[Link], component: ManifestComponent) -> dict[str, ManifestFile]:
    """The files of a component after its restore from a chain, by path; contents are where ``stored`` tells.

    A file of which a backup holds only parts stands as that backup has it.
    """
    files: dict[str, ManifestFile] = {}
    for link, one in links_of(chain, component):
        for path in one.gone:
            files.pop(path, None)
        for file in link.files.get(one.key, []):
            if file.kind not in (bundle.UNCHANGED, bundle.RANGES_FILE):
                files[file.path] = file
    return files


def stamp_of(document: BackupComponentsDocument, component: ManifestComponent) -> str:
    """The stamp that a writer gave the backup of a component, or an empty string."""
    found = document_component(document, component)
    return found.backup_stamp if found else ""


def document_component(document: BackupComponentsDocument, component: ManifestComponent) -> Component | None:
    """What a backup components document says of a component."""
    writer = document.writer(component.writer_id, component.instance_id)
    return writer.component(component.logical_path, component.name) if writer else None
