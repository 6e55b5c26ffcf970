"""Both documents: what is written is read back, and what is wrong is refused with the right one of two codes."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument, Component, DifferencedFile, Failure, WriterComponents
from shadowset.vss.documents import components_from_xml, components_to_xml, metadata_from_xml, metadata_to_xml, xml
from shadowset.vss.documents import components_xml as bcd
from shadowset.vss.documents import metadata_xml as wmd
from shadowset.vss.enums import (
    BackupType,
    ComponentType,
    FileRestoreStatus,
    Level,
    RestoreMethodType,
    RestoreTarget,
    RestoreType,
    SourceType,
    UsageType,
    WriterRestore,
)
from shadowset.vss.metadata import FileSet, WriterMetadata

CORRUPT, INVALID = Code.VSS_E_CORRUPT_XML_DOCUMENT, Code.VSS_E_INVALID_XML_DOCUMENT
MANY = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

OBSERVED_METADATA = """<?xml version="1.0"?>
<WRITER_METADATA xmlns="x-schema:#VssWriterMetadataInfo" version="1.1">
  <IDENTIFICATION writerId="a" instanceId="b" friendlyName="Observed" usage="BOOTABLE_SYSTEM_STATE"
      dataSource="OTHER" majorVersion="1" minorVersion="0"/>
  <RESTORE_METHOD method="REPLACE_AT_REBOOT" writerRestore="never" rebootRequired="yes"/>
  <BACKUP_LOCATIONS>
    <DATABASE logicalPath="host" componentName="db" caption="" restoreMetadata="no" notifyOnBackupComplete="yes"
        selectable="yes" selectableForRestore="no" componentFlags="3">
      <DATABASE_FILES path="/var/db" filespec="db.mdf" filespecBackupType="3855"/>
      <DATABASE_LOGFILES path="/var/db" filespec="db.ldf" filespecBackupType="3855"/>
    </DATABASE>
    <EXCLUDE_FILES path="/tmp" filespec="*" recursive="yes"/>
    <FILE_GROUP componentName="files" selectable="no">
      <FILE_LIST path="/etc" filespec="*" recursive="yes" filespecBackupType="3855"/>
    </FILE_GROUP>
  </BACKUP_LOCATIONS>
</WRITER_METADATA>
"""
OBSERVED_BACKUP = """<BACKUP_COMPONENTS xmlns="x-schema:#VssComponentMetadata" version="1.2"
    bootableSystemStateBackup="yes" selectComponents="yes" backupType="full" partialFileSupport="no" snapshotSetId="s">
  <WRITER_COMPONENTS instanceId="i" writerId="w" backupSchema="881">
    <COMPONENT logicalPath="Disks" componentName="harddisk0" componentType="filegroup" backupSucceeded="yes">
      <BACKUP_METADATA xmlns="" metadata="aGVsbG8="/>
    </COMPONENT>
  </WRITER_COMPONENTS>
</BACKUP_COMPONENTS>
"""


def _refused(read: Any, text: str | bytes) -> VssError:
    with pytest.raises(VssError) as caught:
        read(text)
    return caught.value


@pytest.mark.vss(37)
def test_any_metadata_survives(metadata_documents: Any) -> None:
    @MANY
    @given(metadata_documents)
    def check(metadata: WriterMetadata) -> None:
        text = metadata_to_xml(metadata)
        again = metadata_from_xml(text)
        assert again == metadata
        assert metadata_to_xml(again) == text
        assert metadata_from_xml(text.encode("utf-16")) == metadata

    check()


def test_any_backup_components_survive(backup_documents: Any) -> None:
    @MANY
    @given(backup_documents)
    def check(document: BackupComponentsDocument) -> None:
        text = components_to_xml(document)
        again = components_from_xml(text.encode())
        assert again == document
        assert components_to_xml(again) == text

    check()


@pytest.mark.parametrize(
    ("words", "enumeration"),
    [
        (wmd.USAGE_WORDS, UsageType),
        (wmd.SOURCE_WORDS, SourceType),
        (wmd.LEVEL_WORDS, Level),
        (wmd.METHOD_WORDS, RestoreMethodType),
        (wmd.WRITER_RESTORE_WORDS, WriterRestore),
        (bcd.BACKUP_WORDS, BackupType),
        (bcd.RESTORE_WORDS, RestoreType),
        (bcd.TARGET_WORDS, RestoreTarget),
        (bcd.STATUS_WORDS, FileRestoreStatus),
    ],
)
def test_each_value_of_an_enumeration_has_a_word_of_its_own(words: dict[Any, str], enumeration: Any) -> None:
    assert set(words) == set(enumeration)
    assert len(set(words.values())) == len(words)


def test_reads_metadata_with_the_observed_names() -> None:
    metadata = metadata_from_xml(OBSERVED_METADATA)
    assert metadata.usage == UsageType.BOOTABLESYSTEMSTATE
    assert metadata.restore_method.method == RestoreMethodType.RESTORE_AT_REBOOT
    assert metadata.restore_method.writer_restore == WriterRestore.NEVER
    assert [component.full_path for component in metadata.components] == ["host\\db", "files"]
    assert metadata.components[0].log_files == (FileSet("/var/db", "db.ldf"),)
    assert metadata.components[1].files == (FileSet("/etc", "*", recursive=True),)
    assert metadata.exclude_files[0].recursive


def test_reads_backup_components_with_the_observed_names() -> None:
    document = components_from_xml(OBSERVED_BACKUP)
    assert document.backup_type == BackupType.FULL
    component = document.writers[0].components[0]
    assert (component.full_path, component.backup_metadata, component.backup_succeeded) == (
        "Disks\\harddisk0",
        "hello",
        True,
    )
    assert document.writers[0].backup_schema == 881


def test_writes_the_observed_names(my_writer: WriterMetadata) -> None:
    text = metadata_to_xml(my_writer)
    assert '<WRITER_METADATA xmlns="x-schema:#VssWriterMetadataInfo"' in text
    assert 'usage="USER_DATA"' in text
    assert 'method="RESTORE_IF_CAN_BE_REPLACED"' in text
    assert '<FILE_LIST path="/srv/Executables" filespec="*" filespecBackupType="3855" />' in text


@pytest.mark.parametrize("bad", ["\x00", "\x0b", "\x1f", "\ufffe", "\uffff", "\ud800"])
def test_refuses_to_write_what_xml_cannot_hold(bad: str, my_writer: WriterMetadata) -> None:
    named = msgspec.structs.replace(my_writer, name=f"a{bad}b")
    with pytest.raises(VssError, match=rf"IDENTIFICATION/friendlyName .*U\+{ord(bad):04X}") as caught:
        metadata_to_xml(named)
    assert caught.value.code == Code.E_INVALIDARG


def test_metadata_strings_may_hold_any_character_but_half_a_pair() -> None:
    component = Component(ComponentType.DATABASE, "", "db", backup_metadata="\x00\x01")
    document = BackupComponentsDocument(writers=[WriterComponents("w", "i", components=[component])])
    assert base64.b64encode(b"\x00\x01").decode() in components_to_xml(document)
    component.backup_metadata = "\ud800"
    with pytest.raises(VssError, match="'db' holds text that is not Unicode") as caught:
        components_to_xml(document)
    assert caught.value.code == Code.E_INVALIDARG


@pytest.mark.parametrize(
    "component",
    [
        Component(ComponentType.UNDEFINED, "", "db"),
        Component(ComponentType.DATABASE, "", "db", failure=Failure(code=2**32)),
        Component(ComponentType.DATABASE, "", "db", failure=Failure(code=-1)),
        Component(ComponentType.DATABASE, "", "db", differenced_files=[DifferencedFile("/", "*", False, 2**64)]),
    ],
)
def test_refuses_to_write_values_without_a_form(component: Component) -> None:
    document = BackupComponentsDocument(writers=[WriterComponents("w", "i", components=[component])])
    with pytest.raises(VssError) as caught:
        components_to_xml(document)
    assert caught.value.code == Code.E_INVALIDARG


@pytest.mark.vss(63)
def test_a_megabyte_of_metadata_survives() -> None:
    component = Component(ComponentType.DATABASE, "", "db", backup_metadata="\x00\u00e9" * 350_000)
    document = BackupComponentsDocument(writers=[WriterComponents("w", "i", components=[component])])
    assert components_from_xml(components_to_xml(document)) == document


def test_refuses_to_write_more_than_it_would_read() -> None:
    component = Component(ComponentType.DATABASE, "", "db", backup_metadata="x" * xml.MAX_DOCUMENT)
    with pytest.raises(VssError, match="over the limit"):
        components_to_xml(BackupComponentsDocument(writers=[WriterComponents("w", "i", components=[component])]))


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("x-schema:#VssWriterMetadataInfo", "urn:other", ["WRITER_METADATA", "namespace"]),
        ("WRITER_METADATA", "WRITER", ["WRITER", "WRITER_METADATA"]),
        ('version="1.1"', "", ["WRITER_METADATA", "version"]),
        ('version="1.1"', 'version="2.0"', ["WRITER_METADATA", "version", "2.0"]),
        ('writerId="a"', "", ["IDENTIFICATION", "writerId"]),
        ('writerId="a"', 'writerId="a" colour="red"', ["IDENTIFICATION", "colour"]),
        ('usage="BOOTABLE_SYSTEM_STATE"', 'usage="NONE"', ["IDENTIFICATION", "usage", "NONE", "USER_DATA"]),
        ('majorVersion="1"', 'majorVersion="one"', ["IDENTIFICATION", "majorVersion"]),
        ('majorVersion="1"', 'majorVersion="1_0"', ["IDENTIFICATION", "majorVersion"]),
        ('majorVersion="1"', 'majorVersion="\u0661"', ["IDENTIFICATION", "majorVersion"]),
        ('majorVersion="1"', f'majorVersion="{2**64}"', ["IDENTIFICATION", "majorVersion", "64 bits"]),
        ('rebootRequired="yes"', 'rebootRequired="true"', ["RESTORE_METHOD", "rebootRequired"]),
        ('method="REPLACE_AT_REBOOT"', 'method="replace_at_reboot"', ["RESTORE_METHOD", "method"]),
        ("DATABASE_FILES", "DATABASE_FILE", ["DATABASE_FILE", "DATABASE"]),
        ('caption=""', 'icon="%%%"', ["DATABASE", "icon", "base64"]),
        ('<FILE_LIST path="/etc"', "<FILE_LIST", ["FILE_LIST", "path"]),
        ("<BACKUP_LOCATIONS>", "<BACKUP_LOCATIONS>text", ["BACKUP_LOCATIONS", "text"]),
        ("<BACKUP_LOCATIONS>", '<BACKUP_LOCATIONS a="b">', ["BACKUP_LOCATIONS", "a"]),
        ("<BACKUP_LOCATIONS>", "<IDENTIFICATION/><BACKUP_LOCATIONS>", ["IDENTIFICATION", "more than one"]),
        ('recursive="yes"/>', 'recursive="yes"><FILE_LIST/></EXCLUDE_FILES>', ["EXCLUDE_FILES", "FILE_LIST"]),
        ("</BACKUP_LOCATIONS>", '</BACKUP_LOCATIONS><BACKUP_SCHEMA mask="x"/>', ["BACKUP_SCHEMA", "mask"]),
    ],
)
def test_another_document_is_invalid_and_the_sentence_names_the_place(old: str, new: str, names: list[str]) -> None:
    assert old in OBSERVED_METADATA
    broken = OBSERVED_METADATA.replace(old, new)
    error = _refused(metadata_from_xml, broken)
    assert error.code == INVALID
    assert "writer metadata document" in error.message
    for name in names:
        assert name in error.message


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("x-schema:#VssComponentMetadata", "x-schema:#VssWriterMetadataInfo", ["BACKUP_COMPONENTS", "namespace"]),
        ('selectComponents="yes"', "", ["BACKUP_COMPONENTS", "selectComponents"]),
        ('backupType="full"', 'backupType="Full"', ["BACKUP_COMPONENTS", "backupType"]),
        ('componentType="filegroup"', 'componentType="undefined"', ["COMPONENT", "componentType"]),
        ('componentType="filegroup"', 'componentType="filegroup" restoreTarget="x"', ["COMPONENT", "restoreTarget"]),
        ('metadata="aGVsbG8="', 'metadata="/w=="', ["BACKUP_METADATA", "UTF-8"]),
        ('metadata="aGVsbG8="', 'metadata="aGVsbG8"', ["BACKUP_METADATA", "base64"]),
        ('<BACKUP_METADATA xmlns="" metadata="aGVsbG8="/>', "<FAILURE/><FAILURE/>", ["FAILURE", "more than one"]),
        ('<BACKUP_METADATA xmlns="" metadata="aGVsbG8="/>', '<FAILURE hresult="5"/>', ["FAILURE", "hresult"]),
        ('<BACKUP_METADATA xmlns="" metadata="aGVsbG8="/>', '<NEW_TARGET path="/a"/>', ["NEW_TARGET", "filespec"]),
        ('<BACKUP_METADATA xmlns="" metadata="aGVsbG8="/>', "<DIRECTED_TARGET/>", ["DIRECTED_TARGET", "sourcePath"]),
    ],
)
def test_another_backup_document_is_invalid(old: str, new: str, names: list[str]) -> None:
    assert old in OBSERVED_BACKUP
    error = _refused(components_from_xml, OBSERVED_BACKUP.replace(old, new))
    assert error.code == INVALID
    assert "backup components document" in error.message
    for name in names:
        assert name in error.message


@pytest.mark.parametrize("tag", ["IDENTIFICATION", "RESTORE_METHOD", "BACKUP_LOCATIONS"])
def test_a_part_that_must_be_there_is_missed(tag: str, my_writer: WriterMetadata) -> None:
    lines = metadata_to_xml(msgspec.structs.replace(my_writer, components=())).splitlines()
    error = _refused(metadata_from_xml, "\n".join(line for line in lines if tag not in line))
    assert error.code == INVALID
    assert tag in error.message


def test_one_document_is_not_the_other() -> None:
    assert _refused(metadata_from_xml, OBSERVED_BACKUP).code == INVALID
    assert _refused(components_from_xml, OBSERVED_METADATA).code == INVALID


# ---- hostile and damaged documents ----

LAUGHS = (
    '<!DOCTYPE WRITER_METADATA [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    + "]><WRITER_METADATA>&a11;</WRITER_METADATA>"
)
QUADRATIC = f'<!DOCTYPE x [<!ENTITY a "{"x" * 50_000}">]><x>{"&a;" * 50_000}</x>'
HOSTILE = {
    "nothing": "",
    "blanks": "  \n",
    "no xml": "no xml at all",
    "nul": "<a>\x00</a>",
    "billion laughs": LAUGHS,
    "quadratic": QUADRATIC,
    "external entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
    "external subset": '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><x/>',
    "parameter entity": '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd">%p;]><x/>',
    "plain document type": "<!DOCTYPE WRITER_METADATA><WRITER_METADATA/>",
    "undeclared entity": "<a>&nope;</a>",
    "unbound prefix": '<WRITER_METADATA xmlns="x-schema:#VssWriterMetadataInfo" q:version="1.2"/>',
    "twice the same attribute": '<a b="1" b="2"/>',
    "two roots": "<a/><a/>",
    "deep": "<a>" * 200_000,
    "deep and closed": "<a>" * 100_000 + "</a>" * 100_000,
    "too large": f"<a b='{'x' * xml.MAX_DOCUMENT}'/>",
    "half a pair": "<a b='\ud800'/>",
    "character reference to half a pair": "<a b='&#xD800;'/>",
    "character reference to nul": "<a b='&#0;'/>",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", [metadata_from_xml, components_from_xml])
def test_hostile_documents_are_corrupt(name: str, read: Any) -> None:
    error = _refused(read, HOSTILE[name])
    assert error.code == CORRUPT
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"\xff\xfe<\x00a",
        b"\xfe\xff\x00",
        b"<a b='\xe4'/>",
        b"\x00" * 100,
        b"x" * (xml.MAX_DOCUMENT + 1),
        '<?xml version="1.0" encoding="latin-1"?><a b="\u00e4"/>'.encode("latin-1"),
        b'<?xml version="1.1"?><a',
    ],
)
def test_hostile_bytes_are_corrupt(data: bytes) -> None:
    assert _refused(metadata_from_xml, data).code == CORRUPT


@pytest.mark.parametrize("encoding", ["utf-7", "rot13", "idna", "punycode", "zlib_codec", "no-such-thing", "undefined"])
def test_a_declared_encoding_does_not_count(encoding: str) -> None:
    declared = OBSERVED_METADATA.replace('version="1.0"', f'version="1.0" encoding="{encoding}"')
    assert metadata_from_xml(declared.encode()) == metadata_from_xml(OBSERVED_METADATA)


def test_too_many_elements_are_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "MAX_ELEMENTS", 10)
    error = _refused(metadata_from_xml, f"<a>{'<b/>' * 10}</a>")
    assert error.code == CORRUPT
    assert "more than 10 elements" in error.message


def test_depth_that_is_allowed_is_judged_by_what_it_is() -> None:
    depth = xml.MAX_DEPTH
    assert _refused(metadata_from_xml, "<a>" * depth + "</a>" * depth).code == INVALID
    assert _refused(metadata_from_xml, "<a>" * (depth + 1) + "</a>" * (depth + 1)).code == CORRUPT


def _documents(my_writer: WriterMetadata) -> list[tuple[Any, Any, bytes]]:
    return [
        (metadata_from_xml, metadata_to_xml, OBSERVED_METADATA.encode()),
        (components_from_xml, components_to_xml, OBSERVED_BACKUP.encode()),
        (metadata_from_xml, metadata_to_xml, metadata_to_xml(my_writer).encode()),
    ]


@pytest.mark.vss(57)
def test_truncated_documents_are_corrupt(my_writer: WriterMetadata) -> None:
    for read, _, data in _documents(my_writer):
        whole = read(data)
        end = len(data.rstrip())
        for length in range(end):
            assert _refused(read, data[:length]).code == CORRUPT, f"cut after {length} bytes"
        for length in range(end, len(data) + 1):
            assert read(data[:length]) == whole


def test_flipped_bits_never_do_worse_than_an_error(my_writer: WriterMetadata) -> None:
    refused = 0
    for read, write, data in _documents(my_writer):
        for at in range(len(data)):
            flipped = bytearray(data)
            flipped[at] ^= 1 << (at % 8)
            try:
                value = read(bytes(flipped))
            except VssError as error:
                assert error.code in (CORRUPT, INVALID)
                refused += 1
            else:
                assert read(write(value)) == value
    assert refused > 1000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_an_error_or_a_document(data: bytes) -> None:
    for read in (metadata_from_xml, components_from_xml):
        assert _refused(read, data).code in (CORRUPT, INVALID)
