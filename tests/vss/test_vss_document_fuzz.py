"""Thousands of damaged documents: each is read, or refused with one of the two codes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument, Component, DifferencedFile, PartialFile, WriterComponents
from shadowset.vss.documents import components_from_xml, components_to_xml, metadata_from_xml, metadata_to_xml
from shadowset.vss.enums import ComponentType
from shadowset.vss.metadata import WriterMetadata

PIECES = [b"<", b">", b'"', b"&", b"&#0;", b"\x00", b"\xff", b"/>", b"<!DOCTYPE x>", b"yes", b"-1", b"9" * 30, b"]]>"]


def damaged(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        end = min(end, start + 200)
        piece = chance.choice([b"", data[start:end] * 2, chance.choice(PIECES), chance.randbytes(4)])
        data = data[:start] + piece + data[end:]
    return data


def backup_document() -> bytes:
    component = Component(ComponentType.DATABASE, "host", "db", backup_stamp="s", backup_metadata="m")
    component.partial_files.append(PartialFile("/a", "b", "0:1"))
    component.differenced_files.append(DifferencedFile("/a", "*", last_modified_ns=5))
    document = BackupComponentsDocument(writers=[WriterComponents("w", "i", components=[component])])
    return components_to_xml(document).encode()


@pytest.mark.parametrize("kind", ["metadata", "components"])
def test_damaged_documents_are_read_or_refused(kind: str, my_writer: WriterMetadata) -> None:
    read: Any = metadata_from_xml if kind == "metadata" else components_from_xml
    write: Any = metadata_to_xml if kind == "metadata" else components_to_xml
    whole = metadata_to_xml(my_writer).encode() if kind == "metadata" else backup_document()
    seen: dict[int, int] = {}
    for seed in range(5000):
        try:
            value = read(damaged(whole, random.Random(seed)))
        except VssError as error:
            assert "document" in error.message, f"seed {seed}"
            seen[error.code] = seen.get(error.code, 0) + 1
        else:
            assert read(write(value)) == value, f"seed {seed}"
    assert set(seen) == {Code.VSS_E_CORRUPT_XML_DOCUMENT, Code.VSS_E_INVALID_XML_DOCUMENT}
