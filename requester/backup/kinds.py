"""Which components a backup takes whole, and which only as far as they changed since the base: VSS leaves it to us.

A component builds on the base when its writer supports the type, the base holds the component, and its writer
describes it as it did then. Otherwise it is taken whole, left out, or the backup is refused, as the user wishes.
No chain has both incremental and differential backups, so EXCLUSIVE_INCREMENTAL_DIFFERENTIAL asks nothing more of us.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shadowset.requester.backup.chain import Link, counterpart, present
from shadowset.requester.backup.manifest import ManifestComponent, ManifestFile
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.enums import BackupSchema, BackupType
from shadowset.vss.metadata import ComponentInfo, WriterMetadata
from shadowset.vss.selection import ComponentTree, guid_key

NEEDED = {
    BackupType.INCREMENTAL: BackupSchema.INCREMENTAL,
    BackupType.DIFFERENTIAL: BackupSchema.DIFFERENTIAL,
    BackupType.LOG: BackupSchema.LOG,
}


class Unsupported(StrEnum):
    """What to do with a component that cannot build on the base."""

    WHOLE = "whole"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Earlier:
    """What there is of earlier backups: their documents' stamps, and their files unless only a document is known."""

    document: BackupComponentsDocument
    chain: list[Link]

    def stamp(self, writer: WriterMetadata, info: ComponentInfo) -> str:
        """The stamp of a component's earlier backup, or an empty string."""
        for entry in self.document.writers:
            if guid_key(entry.writer_id) == guid_key(writer.writer_id) and entry.instance_name == writer.instance_name:
                found = entry.component(info.logical_path, info.name)
                if found is not None and found.backup_succeeded:
                    return found.backup_stamp
        return ""

    def files(self, writer: WriterMetadata, info: ComponentInfo) -> dict[str, ManifestFile] | None:
        """What the chain holds of a component by path; None when only a document is known."""
        if not self.chain:
            return None
        held = counterpart(as_entry(writer, info), self.chain[-1])
        return present(self.chain, held) if held else {}


def as_entry(writer: WriterMetadata, info: ComponentInfo) -> ManifestComponent:
    """A component as a manifest names it."""
    return ManifestComponent(
        writer_id=writer.writer_id,
        instance_id=writer.instance_id,
        writer=writer.name,
        type=info.type.name,
        logical_path=info.logical_path,
        name=info.name,
        succeeded=True,
        instance_name=writer.instance_name,
    )


class Kinds:
    """The type that each component is backed up by; ``reason`` is empty for those that are what was asked for."""

    def __init__(self, backup_type: BackupType, earlier: Earlier | None) -> None:
        self._type = backup_type
        self._earlier = earlier
        self._then = {}
        if earlier and earlier.chain:
            self._then = earlier.chain[-1].metadata()

    def type_of(self, writer: WriterMetadata, info: ComponentInfo) -> BackupType:
        """FULL for a component that is taken whole in a backup of another type."""
        return BackupType.FULL if self.reason(writer, info) else self._type

    def reason(self, writer: WriterMetadata, info: ComponentInfo) -> str:
        """Why a component cannot build on the base, as a sentence; empty when it can, or nothing has to."""
        if self._type not in NEEDED:
            return ""
        word = self._type.name.lower()
        if not writer.backup_schema & NEEDED[self._type]:
            return f"writer {writer.name} makes no {word} backups"
        if self._earlier is None or not self._earlier.chain:
            return ""
        return self._not_held(writer, info, self._earlier.chain[-1].directory)

    def _not_held(self, writer: WriterMetadata, info: ComponentInfo, base: str) -> str:
        assert self._earlier is not None
        tree = ComponentTree(writer)
        for candidate in (info, *tree.selectable_ancestors(info)):
            held = counterpart(as_entry(writer, candidate), self._earlier.chain[-1])
            if held is not None and not held.succeeded:
                return f"its backup in {base} failed"
            if held is not None:
                metadata = self._then.get((held.writer_id, held.instance_id))
                then = metadata.component(info.logical_path, info.name) if metadata else None
                same = then is not None and then.file_sets == info.file_sets
                return "" if same else f"its writer describes it otherwise than for {base}"
        return f"{base} does not hold it"

    def refuse(self, reasons: list[str]) -> None:
        """Errors: VSS_E_NOT_SUPPORTED, when there are reasons."""
        if reasons:
            raise VssError(
                Code.VSS_E_NOT_SUPPORTED,
                f"this is no {self._type.name.lower()} backup of everything: {'; '.join(reasons)}; make a full one, or "
                "let these be taken whole (--unsupported whole)",
            )
