"""``shadowset documents``: faults in sentences, both forms of a document, and bundles that show every change."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester import cli
from shadowset.vss.codes import VssError
from shadowset.vss.components import (
    BackupComponentsDocument,
    Component,
    DifferencedFile,
    DirectedTarget,
    PartialFile,
    RestoreSubcomponent,
    WriterComponents,
)
from shadowset.vss.documents import components_to_xml, metadata_to_xml
from shadowset.vss.documents.bundle import MANIFEST, SIGNATURE, make_bundle, open_bundle
from shadowset.vss.documents.twin import schema_text
from shadowset.vss.enums import ComponentType, RestoreTarget
from shadowset.vss.metadata import ComponentInfo, FileSet, LocationMapping, WriterMetadata

WRITER_ID = "3b1f6e9a-52f0-4c1d-9a6e-0d5c1b2a7f10"
INSTANCE_ID = "0a4e7c55-9d0b-4a53-8f0e-7a3c2b1d9e21"
KEY = b"a key of sixteen bytes or more"

METADATA = WriterMetadata(
    WRITER_ID,
    INSTANCE_ID,
    "Orders",
    components=(
        ComponentInfo(
            ComponentType.FILEGROUP, "orders", caption="All \x85 orders", files=(FileSet("/srv/orders", "*"),)
        ),
    ),
    alternate_location_mappings=(LocationMapping("/srv/orders", "*", False, "/srv/new"),),
    backup_schema=0x100,
)


def backup(**fields: Any) -> BackupComponentsDocument:
    """A sound backup components document with one component, which has these fields."""
    component = Component(ComponentType.FILEGROUP, "", "orders", **fields)
    writer = WriterComponents(WRITER_ID, INSTANCE_ID, "Orders", backup_schema=0x100, components=[component])
    return BackupComponentsDocument(writers=[writer])


def directed(source: str, destination: str) -> DirectedTarget:
    return DirectedTarget("/a", "b", source, "/c", "d", destination)


WMD = metadata_to_xml(METADATA)
BCD = components_to_xml(backup(backup_stamp="monday"))
WRITER_START = BCD[BCD.index("  <WRITER_COMPONENTS") : BCD.index("    <COMPONENT")]
COMPONENT = BCD[BCD.index("    <COMPONENT") : BCD.index("  </WRITER")]


def wrong(document: str, old: str, new: str) -> str:
    assert old in document
    return document.replace(old, new)


def partial(ranges: str, path: str = "/a", name: str = "b") -> str:
    return components_to_xml(backup(partial_files=[PartialFile(path, name, ranges)]))


def differenced(path: str, filespec: str, time: int = 0) -> DifferencedFile:
    return DifferencedFile(path, filespec, last_modified_ns=time)


BAD: list[tuple[str, str]] = [
    ("", "the document is corrupt"),
    (WMD[: len(WMD) // 2], "the document is corrupt"),
    ("no XML at all", "the document is corrupt"),
    ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "brings a document type or entities"),
    ("<SOMETHING/>", "its root element is SOMETHING and should be WRITER_METADATA or BACKUP_COMPONENTS"),
    (wrong(WMD, "x-schema:#VssWriterMetadataInfo", "urn:other"), "is not in the namespace"),
    (wrong(WMD, 'version="1.2"', 'version="9.9"'), "attribute version of element WRITER_METADATA is '9.9'"),
    (wrong(WMD, 'usage="USER_DATA"', 'usage="TOY"'), "attribute usage of element IDENTIFICATION is 'TOY'"),
    (wrong(WMD, 'friendlyName="Orders"', ""), "IDENTIFICATION has no attribute friendlyName"),
    (wrong(WMD, "RESTORE_METHOD", "METHOD_OF_RESTORE"), "element METHOD_OF_RESTORE is not known"),
    (wrong(WMD, WRITER_ID, "mine"), "the writer id 'mine' is not a GUID"),
    (wrong(WMD, 'friendlyName="Orders"', 'friendlyName=" "'), "the writer has no name"),
    (wrong(WMD, 'majorVersion="1"', 'majorVersion="0"'), "version 0.0 is below 1.0"),
    (wrong(WMD, 'writerRestore="always"', 'writerRestore="undefined"'), "undefined whether the writer takes part"),
    (wrong(WMD, 'mask="256"', 'mask="2048"'), "the backup schema 0x800 has bits"),
    (wrong(WMD, 'componentName="orders"', 'componentName="a/b"'), "has a slash or backslash in its name"),
    (wrong(WMD, 'filespecBackupType="3855"', 'filespecBackupType="4096"'), "mask 0x1000"),
    (wrong(WMD, 'alternatePath="/srv/new"', 'alternatePath="new"'), "relative alternate path 'new'"),
    (wrong(BCD, 'backupType="copy"', 'backupType="undefined"'), "the kind of backup is undefined"),
    (wrong(BCD, 'restoreType="undefined"', 'restoreType="undefined" sessionId="x"'), "id 'x' of the session is not"),
    (wrong(BCD, 'selectComponents="yes"', 'selectComponents="no"'), "lists components, and is of a backup by volumes"),
    (wrong(BCD, INSTANCE_ID, "other"), "the instance id 'other' is not a GUID"),
    (wrong(BCD, COMPONENT, COMPONENT * 2), "component 'orders' with logical path '' is there 2 times; keep one"),
    (wrong(BCD, WRITER_START, f"{WRITER_START}  </WRITER_COMPONENTS>\n{WRITER_START}"), "is there 2 times; put all"),
    (wrong(BCD, 'componentName="orders"', 'componentName="\\orders"'), "has a slash or backslash in its name"),
    (wrong(COMPONENT.join(BCD.split(COMPONENT)), "/>", '><FAILURE hresult="0x80004005"/></COMPONENT>'), "0x80004005"),
    (partial("1:2,x"), "'x' is no range"),
    (partial("0:10,0x9:1"), "the ranges 0:10 and 9:1 overlap"),
    (partial("5:0"), "the range 5:0 is empty"),
    (partial("0:1", name="b/c"), "has 'b/c' as the name of a file"),
    (partial("/ranges", path="a"), "relative path 'a'"),
    (components_to_xml(backup(differenced_files=[differenced("/a", "b/c")])), "in the file pattern 'b/c'"),
    (components_to_xml(backup(differenced_files=[differenced("/a", "*", -1)])), "a time before 1970"),
    (
        components_to_xml(
            backup(differenced_files=[differenced("/a", "b")], partial_files=[PartialFile("/a", "b", "0:1")])
        ),
        "are partial files as well",
    ),
    (
        components_to_xml(backup(restore_subcomponents=[RestoreSubcomponent("", "x")])),
        "has members to restore and is not selected",
    ),
    (
        components_to_xml(backup(new_targets=[LocationMapping("/a", "*", False, "b")])),
        "relative new path 'b'",
    ),
    (
        wrong(components_to_xml(backup(new_targets=[LocationMapping("/a", "*", False, "/b")])), '"256"', '"0"'),
        "has a new target, which its writer does not support",
    ),
    (components_to_xml(backup(restore_name="new")), "restored with a new name, which its writer does not support"),
    (components_to_xml(backup(roll_forward_point="x")), "a point to roll forward to without PARTIAL"),
    (components_to_xml(backup(restore_target=RestoreTarget.DIRECTED)), "DIRECTED and no directed target"),
    (
        components_to_xml(backup(directed_targets=[directed("0:4", "0:5")])),
        "moves ranges of [4] bytes to ranges of [5]",
    ),
    ('{"document": "writer-metadata", "content": 7}', "the document is invalid as JSON"),
    ('{"document": ', "the document is corrupt"),
]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run ``shadowset documents …`` in this process; returns status, standard output and standard error."""

    def running(*arguments: str | Path) -> tuple[int, str, str]:
        status = cli.main(["documents", *map(str, arguments)])
        out, err = capfd.readouterr()
        return status, out, err

    return running


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A backup components document and a writer metadata document."""
    paths = tmp_path / "bc.xml", tmp_path / "writer.xml"
    for path, text in zip(paths, (BCD, WMD), strict=True):
        path.write_text(text, encoding="utf-8", newline="")
    return paths


@pytest.mark.vss(55)
def test_every_bad_document_gets_its_sentence(run: Any, tmp_path: Path) -> None:
    paths = []
    for number, (text, _) in enumerate(BAD):
        paths.append(tmp_path / f"bad{number}.xml")
        paths[-1].write_text(text, encoding="utf-8", newline="")
    status, out, _ = run("lint", *paths)
    assert status == 1
    lines = out.splitlines()
    assert len(lines) == len(BAD) >= 30, "one fault, one sentence"
    for path, line, (_, sentence) in zip(paths, lines, BAD, strict=True):
        assert line.startswith(f"{path}: ") and sentence in line
    assert len({line.partition(": ")[2] for line in lines}) >= 30, "the sentences tell the faults apart"


def test_sound_documents_have_no_fault(run: Any, files: tuple[Path, Path]) -> None:
    assert run("lint", *files) == (0, f"{files[0]}: no fault\n{files[1]}: no fault\n", "")
    status, out, _ = run("lint", "--json", files[0])
    assert (status, json.loads(out)) == (0, [{"file": str(files[0]), "faults": []}])
    status, _, err = run("lint", files[0].parent / "none.xml")
    assert status == 1 and "none.xml: No such file or directory" in err


def test_both_forms_are_one_document(run: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    for path in files:
        _, text, _ = run("json", path)
        twin = tmp_path / f"{path.stem}.json"
        twin.write_text(text)
        assert run("xml", twin)[1].encode() == path.read_bytes()
        assert run("json", twin)[1] == text
        assert run("show", twin)[:2] == run("show", path)[:2]
        assert run("lint", twin)[0] == 0


def test_show_tells_what_is_in_it(run: Any, files: tuple[Path, Path]) -> None:
    backup_text, writer_text = (run("show", path)[1] for path in files)
    assert "Backup stamp: monday" in backup_text and "Component orders (filegroup)" in backup_text
    assert "/srv/orders" in writer_text and "All \\x85 orders" in writer_text, "nothing raw reaches the terminal"


def test_the_schema_is_of_the_types(run: Any) -> None:
    status, out, _ = run("schema")
    schema = json.loads(out)
    assert status == 0 and out == schema_text()
    kinds = schema["discriminator"]["mapping"]
    assert set(kinds) == {"writer-metadata", "backup-components"}
    for kind in (WriterMetadata, BackupComponentsDocument, Component, ComponentInfo):
        assert set(schema["$defs"][kind.__name__]["properties"]) == set(kind.__struct_fields__)


# ---- bundles ----


def test_bundles(run: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    key, out = tmp_path / "key", tmp_path / "out.zip"
    key.write_bytes(KEY)
    assert run("bundle", out, *files, "--key", key)[0] == 0
    status, text, _ = run("verify", out, "--key", key)
    assert status == 0 and "2 documents" in text and "signed with this key" in text
    assert "give --key to check" in run("verify", out)[1]
    for action in ("show", "lint", "json"):
        assert f"{out} is a bundle of documents; use shadowset documents verify" in run(action, out)[2]
    assert "File exists" in run("bundle", out, *files)[2]
    assert out.read_bytes() == make_bundle([(path.name, path.read_bytes()) for path in files], KEY)
    members = zipfile.ZipFile(out).namelist()
    assert members == ["BCDocument.xml", "WM0.xml", MANIFEST, SIGNATURE]


def test_no_bundle_of_what_is_no_document(run: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    out, key = tmp_path / "out.zip", tmp_path / "key"
    key.write_bytes(b"short")
    for arguments, sentence in (
        ([files[0], files[0]], "is a second backup components document"),
        ([files[0], key], "key: the document is corrupt"),
        ([files[0], "--key", key], "the key has 5 bytes"),
    ):
        status, _, err = run("bundle", out, *arguments)
        assert status == 1 and sentence in err and not out.exists()


Parts = dict[str, bytes]


def without(name: str) -> Callable[[Parts], object]:
    return lambda parts: parts.pop(name)


def changed(name: str) -> Callable[[Parts], object]:
    return lambda parts: parts.update({name: parts[name].replace(b"monday", b"friday").replace(b"Orders", b"Ordure")})


@pytest.mark.vss(66)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed("BCDocument.xml"), "'BCDocument.xml' is not the document"),
        (changed("WM0.xml"), "'WM0.xml' is not the document"),
        (without("WM0.xml"), "'WM0.xml' is in the manifest and not in it"),
        (without(MANIFEST), "has no Manifest.json"),
        (lambda parts: parts.update({"WM9.xml": b"x"}), "'WM9.xml' is in it and not in the manifest"),
        (lambda parts: parts.update({MANIFEST: b"{}"}), "manifest cannot be read"),
        (lambda parts: parts.update({MANIFEST: parts[MANIFEST] + b" "}), "signature was not made with this key"),
        (without(SIGNATURE), "is not signed"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused(change: Callable[[Parts], object], sentence: str) -> None:
    whole = make_bundle([("a", BCD.encode()), ("b", WMD.encode())], KEY)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    key = b"" if sentence == "manifest cannot be read" else KEY
    with pytest.raises(VssError) as refused:
        open_bundle(out.getvalue(), key)
    assert sentence in refused.value.message and "the document bundle is refused" in refused.value.message


@pytest.mark.vss(66)
def test_no_bit_and_no_byte_can_be_changed_unseen() -> None:
    whole = make_bundle([("a", BCD.encode()), ("b", WMD.encode())], KEY)
    members = open_bundle(whole, KEY).members
    refused = 0
    for length in range(0, len(whole), 7):
        with pytest.raises(VssError):
            open_bundle(whole[:length], KEY)
    for place in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << place % 8
        try:
            assert open_bundle(bytes(spoilt), KEY).members == members, "only the archive's own dress may differ"
        except VssError:
            refused += 1
    assert refused > sum(len(member.data) for member in members)
