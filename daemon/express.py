"""Express writers: applications whose metadata document lies in a directory, without a process that hears events.

The directory is read anew whenever writers are asked for, so a file that is put there or taken away counts at once. A
file that cannot be used is reported when it is first seen that way, and left out.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from shadowset.daemon.clock import now
from shadowset.daemon.server import Peer
from shadowset.daemon.writer_link import Answer, WriterLink
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.documents.twin import read_document
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.validate import validate_metadata
from shadowset.vss.writer_protocol import Event, Hello, Reply

LARGEST = 4 << 20


@dataclass(frozen=True)
class _Nobody:
    """Stands where a writer has its connection."""

    peer: Peer

    def send(self, message: Any) -> None:
        """Nobody hears it."""


class ExpressLink(WriterLink):
    """Answers identify from the document; every other event is as if it had been done."""

    silent = True

    def __init__(self, metadata: WriterMetadata, path: str) -> None:
        hello = Hello(
            metadata.writer_id,
            metadata.name,
            instance_id=metadata.instance_id,
            instance_name=metadata.instance_name,
            level=metadata.level,
        )
        nobody: Any = _Nobody(Peer(0, 0, frozenset(), path))
        super().__init__(hello, nobody)
        self._metadata = metadata

    def label(self) -> str:
        """How sentences name it."""
        return f"express writer {self.hello.name}"

    async def ask(self, event: Event, deadline_ms: float) -> Answer:
        """At once."""
        metadata = self._metadata if event.event is WriterEvent.IDENTIFY else None
        return Answer(event.event, Failure(), False, now(), now(), Reply(0, metadata=metadata))


class ExpressWriters:
    """The directory's documents. ``event`` takes a name and a sentence."""

    def __init__(self, directory: str, event: Callable[[str, str], None]) -> None:
        self._directory = directory
        self._event = event
        self._known: dict[str, tuple[tuple[int, int, int], ExpressLink | None]] = {}

    def links(self) -> list[ExpressLink]:
        """Those that can be used, in the order of the files' names; of two with the same identity the first."""
        paths = self._paths()
        self._known = {path: known for path, known in self._known.items() if path in paths}
        found: dict[tuple[str, str], ExpressLink] = {}
        for path in paths:
            link = self._link(path)
            if link:
                found.setdefault((link.hello.writer_id, link.hello.instance_id), link)
        return list(found.values())

    def _paths(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            return []
        return [f"{self._directory}/{name}" for name in names if name.endswith((".xml", ".json"))]

    def _link(self, path: str) -> ExpressLink | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        mark = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._known.get(path)
        if known is None or known[0] != mark:
            known = self._known[path] = (mark, self._read(path, status.st_size))
        return known[1]

    def _read(self, path: str, size: int) -> ExpressLink | None:
        try:
            return ExpressLink(express_metadata(path, size), path)
        except (VssError, OSError) as error:
            self._event("express-writer-refused", f"the express writer of {path} is left out: {error}")
            return None


def express_metadata(path: str, size: int) -> WriterMetadata:
    """The document of a file. Errors: VssError naming its first fault, OSError."""
    if size > LARGEST:
        raise VssError(Code.E_INVALIDARG, f"it has {size} bytes, more than the {LARGEST} that are read")
    with open(path, "rb") as file:
        document = read_document(file.read(LARGEST))
    if not isinstance(document, WriterMetadata):
        raise VssError(Code.VSS_E_INVALID_XML_DOCUMENT, "it is no writer metadata document")
    writer_id = document.writer_id.strip("{}").lower()
    instance_id = document.instance_id.strip("{}").lower()
    name = f"{writer_id} {document.instance_name} {path}"
    own = instance_id or str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    metadata = msgspec.structs.replace(document, writer_id=writer_id, instance_id=own)
    faults = [*validate_metadata(metadata), *_beyond_express(metadata)]
    if faults:
        raise VssError(Code.VSS_E_INVALID_XML_DOCUMENT, faults[0])
    return metadata


def _beyond_express(metadata: WriterMetadata) -> list[str]:
    """What VSS does not let an express writer have, because nobody is there to do it."""
    faults = []
    for component in metadata.components:
        if component.type is not ComponentType.FILEGROUP:
            faults.append(f"component {component.full_path!r} is no file group; an express writer has no others")
        if component.flags or component.notify_on_backup_complete:
            faults.append(f"component {component.full_path!r} has flags, but nobody hears what they ask for")
    return faults
