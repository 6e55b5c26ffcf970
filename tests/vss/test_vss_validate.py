"""Each fault of a writer's metadata gets one sentence, and a sound document none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from shadowset.vss.documents import metadata_to_xml
from shadowset.vss.enums import ComponentType, RestoreMethodType, WriterRestore
from shadowset.vss.metadata import (
    ComponentInfo,
    Dependency,
    ExcludedFiles,
    FileSet,
    LocationMapping,
    RestoreMethod,
    WriterMetadata,
)
from shadowset.vss.validate import MAX_LOGICAL_PATH, is_guid, validate_metadata

OTHER_ID = "7c3f0b52-1111-4222-8333-944455556666"


def _database(**fields: Any) -> ComponentInfo:
    return ComponentInfo(ComponentType.DATABASE, "db", **fields)


def _files(*files: FileSet) -> dict[str, Any]:
    return {"components": (ComponentInfo(ComponentType.FILEGROUP, "files", files=files),)}


def _method(method: RestoreMethodType, **fields: Any) -> dict[str, Any]:
    return {"restore_method": RestoreMethod(method, **fields)}


def _depends(*dependencies: Dependency) -> dict[str, Any]:
    return {"components": (_database(dependencies=dependencies),)}


def _named(name: str, logical_path: str = "") -> dict[str, Any]:
    return {"components": (ComponentInfo(ComponentType.FILEGROUP, name, logical_path),)}


def _mapping(*fields: Any) -> dict[str, Any]:
    return {**_files(FileSet("/d", "*")), "alternate_location_mappings": (LocationMapping(*fields),)}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"writer_id": "x"}, "writer id 'x' is not a GUID"),
    ({"writer_id": ""}, "writer id '' is not a GUID"),
    ({"instance_id": OTHER_ID[:-1]}, "instance id"),
    ({"name": " "}, "has no name"),
    ({"name": "a\x00"}, "writer's name holds the character U+0000"),
    ({"instance_name": "\ud800"}, "instance name holds the character U+D800"),
    ({"major_version": 0, "minor_version": 9}, "version 0.9 is below 1.0"),
    ({"minor_version": -1}, "version 1.-1 is below 1.0"),
    ({"freeze_timeout_ms": 0}, "0 ms leaves no time"),
    ({"backup_schema": 0x800}, "backup schema 0x800"),
    (_method(RestoreMethodType.UNDEFINED), "restore method is undefined"),
    (_method(RestoreMethodType.CUSTOM, writer_restore=WriterRestore.UNDEFINED), "takes part in restores"),
    (_method(RestoreMethodType.STOP_RESTORE_START), "STOP_RESTORE_START needs a service"),
    (_method(RestoreMethodType.RESTORE_STOP_START), "RESTORE_STOP_START needs a service"),
    (_method(RestoreMethodType.RESTORE_TO_ALTERNATE_LOCATION), "needs an alternate location mapping"),
    (_method(RestoreMethodType.CUSTOM, user_procedure="\x01"), "user procedure holds the character U+0001"),
    ({"components": ()}, "has no components"),
    ({"components": (_database(), _database())}, "'db' with logical path '' is there 2 times"),
    (_named(""), "has no name"),
    (_named("a\\b"), "slash or backslash in its name 'a\\\\b'"),
    (_named("a/b"), "slash or backslash in its name 'a/b'"),
    (_named("a", "b/c"), "slash in its logical path"),
    (_named("a", "\\b"), "empty element in its logical path"),
    (_named("a", "b\\\\c"), "empty element in its logical path"),
    (_named("a", "b\\"), "empty element in its logical path"),
    (_named("a", "b" * (MAX_LOGICAL_PATH + 1)), "logical path of 4097 characters"),
    (_named("a\uffff"), "holds the character U+FFFF"),
    ({"components": (ComponentInfo(ComponentType.UNDEFINED, "a"),)}, "undefined type"),
    ({"components": (_database(files=(FileSet("/d", "*"),)),)}, "is a database and has file-group files"),
    (
        {"components": (ComponentInfo(ComponentType.FILEGROUP, "a", log_files=(FileSet("/d", "*"),)),)},
        "is a file group and has database or log files",
    ),
    ({"components": (_database(flags=8),)}, "flags 0x8"),
    ({"components": (_database(log_files=(FileSet("/d", "*", recursive=True),)),)}, "recursive or lie elsewhere"),
    (
        {"components": (_database(database_files=(FileSet("/d", "*", alternate_path="/e"),)),)},
        "recursive or lie elsewhere",
    ),
    (_files(FileSet("", "*")), "empty path"),
    (_files(FileSet("d", "*")), "relative path 'd'"),
    (_files(FileSet("/d/../e", "*")), "with a .. element"),
    (_files(FileSet("/d\x00", "*")), "holds the character U+0000"),
    (_files(FileSet("/d", "")), "empty file pattern"),
    (_files(FileSet("/d", "e/*")), "slash or backslash in the file pattern 'e/*'"),
    (_files(FileSet("/d", "e\\*")), "slash or backslash in the file pattern"),
    (_files(FileSet("/d", "*", alternate_path="e")), "relative alternate path 'e'"),
    (_files(FileSet("/d", "*", mask=0x1000)), "mask 0x1000"),
    (_files(FileSet("/d", "*"), FileSet("/d", "*")), "is there 2 times, in 'files', 'files'"),
    (_depends(Dependency("x", "", "y")), "whose id 'x' is not a GUID"),
    (_depends(Dependency(OTHER_ID, "", "")), "component without a name"),
    (_depends(Dependency(OTHER_ID, "", "y"), Dependency(OTHER_ID, "", "y")), "depends 2 times on 'y'"),
    ({"exclude_files": (ExcludedFiles("d", "*"),)}, "from the backup has the relative path 'd'"),
    ({"exclude_files": (ExcludedFiles("/d", ""),)}, "empty file pattern"),
    ({"exclude_from_snapshot": (ExcludedFiles("/d", "a/b"),)}, "from the shadow copy has a slash"),
    (_mapping("/d", "*", True, "/e"), "source that is no file set"),
    (_mapping("/d", "*", False, "e"), "relative alternate path 'e'"),
    (_mapping("/d", "*", False, ""), "empty alternate path"),
]


@pytest.mark.vss(34, 38)
@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_one_fault_one_sentence(my_writer: WriterMetadata, changes: dict[str, Any], sentence: str) -> None:
    faults = validate_metadata(msgspec.structs.replace(my_writer, **changes))
    assert len(faults) == 1, faults
    assert sentence in faults[0]
    assert "\n" not in faults[0]


def test_a_dependency_on_itself(my_writer: WriterMetadata) -> None:
    own = Dependency("{" + my_writer.writer_id.upper() + "}", "", "db")
    [fault] = validate_metadata(msgspec.structs.replace(my_writer, **_depends(own)))
    assert "depends on 'db' of its own writer" in fault
    remote = Dependency(my_writer.writer_id, "\\\\elsewhere\\", "db")
    assert validate_metadata(msgspec.structs.replace(my_writer, **_depends(remote))) == []


def test_sound_documents_have_no_fault(my_writer: WriterMetadata) -> None:
    assert validate_metadata(my_writer) == []
    files = FileSet("$DATA/x", "*.x", recursive=True, alternate_path="%SPIT%/x")
    rich = msgspec.structs.replace(
        my_writer,
        **_files(files),
        alternate_location_mappings=(LocationMapping("$DATA/x", "*.x", True, "/new"),),
        exclude_files=(ExcludedFiles("/tmp", "*", recursive=True),),
        restore_method=RestoreMethod(RestoreMethodType.STOP_RESTORE_START, service="db.service"),
        writer_id="{" + OTHER_ID.upper() + "}",
    )
    assert validate_metadata(rich) == []


def test_faults_add_up(my_writer: WriterMetadata) -> None:
    faults = validate_metadata(msgspec.structs.replace(my_writer, writer_id="x", name="", major_version=0))
    assert len(faults) == 3


def test_whatever_is_sound_can_be_written(metadata_documents: Any, my_writer: WriterMetadata) -> None:
    for changes, _ in BAD:
        validate_metadata(msgspec.structs.replace(my_writer, **changes))

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(metadata_documents)
    def check(metadata: WriterMetadata) -> None:
        assert all(isinstance(fault, str) for fault in validate_metadata(metadata))
        if not validate_metadata(metadata):
            metadata_to_xml(metadata)

    check()


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        (OTHER_ID, True),
        ("{" + OTHER_ID + "}", True),
        (OTHER_ID.upper(), True),
        ("{" + OTHER_ID, False),
        (OTHER_ID + "\n", False),
        (OTHER_ID.replace("-", ""), False),
        ("", False),
    ],
)
def test_guids(text: str, sound: bool) -> None:
    assert is_guid(text) is sound
