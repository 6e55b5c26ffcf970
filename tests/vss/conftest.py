"""Random documents and the published example writer, shared by the tests of this room."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from shadowset.vss import components as c
from shadowset.vss import enums as e
from shadowset.vss import metadata as m

WRITER_ID = "3b1f6e9a-52f0-4c1d-9a6e-0d5c1b2a7f10"
INSTANCE_ID = "0a4e7c55-9d0b-4a53-8f0e-7a3c2b1d9e21"

# what XML 1.0 can hold; line ends and tabs included, since attributes would lose them if written plainly
XML_TEXT = st.text(
    st.one_of(
        st.sampled_from("\t\n\r\"'<>&\\/*?]:; \u00e4\u2192\U0001f4be"),
        st.characters(min_codepoint=0x20, max_codepoint=0xD7FF),
        st.characters(min_codepoint=0xE000, max_codepoint=0xFFFD),
        st.characters(min_codepoint=0x10000, max_codepoint=0x10FFFF),
    ),
    max_size=12,
)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.integers(-(2**63), 2**64 - 1)
FLAG = st.booleans()
MAPPING = st.builds(m.LocationMapping, path=XML_TEXT, filespec=XML_TEXT, recursive=FLAG, alternate_path=XML_TEXT)
KINDS = st.sampled_from([e.ComponentType.DATABASE, e.ComponentType.FILEGROUP])


def _tuples(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


def _lists(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=2)


_FILE_SET = st.builds(m.FileSet, path=XML_TEXT, filespec=XML_TEXT, recursive=FLAG, alternate_path=XML_TEXT, mask=NUMBER)
_EXCLUDED = st.builds(m.ExcludedFiles, path=XML_TEXT, filespec=XML_TEXT, recursive=FLAG)
_DEPENDENCY = st.builds(m.Dependency, writer_id=XML_TEXT, logical_path=XML_TEXT, component_name=XML_TEXT)
_INFO = st.builds(
    m.ComponentInfo,
    type=KINDS,
    name=XML_TEXT,
    logical_path=XML_TEXT,
    caption=XML_TEXT,
    icon=st.binary(max_size=20),
    restore_metadata=FLAG,
    notify_on_backup_complete=FLAG,
    selectable=FLAG,
    selectable_for_restore=FLAG,
    flags=NUMBER,
    files=_tuples(_FILE_SET),
    database_files=_tuples(_FILE_SET),
    log_files=_tuples(_FILE_SET),
    dependencies=_tuples(_DEPENDENCY),
)
METADATA = st.builds(
    m.WriterMetadata,
    writer_id=XML_TEXT,
    instance_id=XML_TEXT,
    name=XML_TEXT,
    instance_name=XML_TEXT,
    major_version=NUMBER,
    minor_version=NUMBER,
    usage=st.sampled_from(e.UsageType),
    source=st.sampled_from(e.SourceType),
    level=st.sampled_from(e.Level),
    freeze_timeout_ms=NUMBER,
    restore_method=st.builds(
        m.RestoreMethod,
        method=st.sampled_from(e.RestoreMethodType),
        service=XML_TEXT,
        user_procedure=XML_TEXT,
        writer_restore=st.sampled_from(e.WriterRestore),
        reboot_required=FLAG,
    ),
    components=_tuples(_INFO),
    include_files=_tuples(
        st.builds(m.IncludedFiles, path=XML_TEXT, filespec=XML_TEXT, recursive=FLAG, alternate_path=XML_TEXT)
    ),
    exclude_files=_tuples(_EXCLUDED),
    exclude_from_snapshot=_tuples(_EXCLUDED),
    alternate_location_mappings=_tuples(MAPPING),
    backup_schema=NUMBER,
)
_COMPONENT = st.builds(
    c.Component,
    type=KINDS,
    logical_path=XML_TEXT,
    name=XML_TEXT,
    backup_succeeded=FLAG,
    backup_options=XML_TEXT,
    backup_metadata=ANY_TEXT,
    backup_stamp=XML_TEXT,
    previous_backup_stamp=XML_TEXT,
    partial_files=_lists(
        st.builds(c.PartialFile, path=XML_TEXT, filename=XML_TEXT, ranges=XML_TEXT, metadata=ANY_TEXT)
    ),
    differenced_files=_lists(
        st.builds(
            c.DifferencedFile, path=XML_TEXT, filespec=XML_TEXT, recursive=FLAG, last_modified_ns=NUMBER, lsn=XML_TEXT
        )
    ),
    failure=st.builds(c.Failure, code=st.integers(0, 2**32 - 1), application_code=NUMBER, message=XML_TEXT),
    prepare_for_backup_failure_message=XML_TEXT,
    post_snapshot_failure_message=XML_TEXT,
    selected_for_restore=FLAG,
    restore_subcomponents=_lists(st.builds(c.RestoreSubcomponent, logical_path=XML_TEXT, name=XML_TEXT)),
    restore_options=XML_TEXT,
    restore_metadata=ANY_TEXT,
    additional_restores=FLAG,
    new_targets=_lists(MAPPING),
    alternate_location_mappings=_lists(MAPPING),
    restore_target=st.sampled_from(e.RestoreTarget),
    directed_targets=_lists(
        st.builds(
            c.DirectedTarget,
            source_path=XML_TEXT,
            source_filename=XML_TEXT,
            source_ranges=XML_TEXT,
            destination_path=XML_TEXT,
            destination_filename=XML_TEXT,
            destination_ranges=XML_TEXT,
        )
    ),
    pre_restore_failure_message=XML_TEXT,
    post_restore_failure_message=XML_TEXT,
    file_restore_status=st.sampled_from(e.FileRestoreStatus),
    authoritative_restore=FLAG,
    restore_name=XML_TEXT,
    roll_forward=st.sampled_from(e.RollForward),
    roll_forward_point=XML_TEXT,
    selected_instance=XML_TEXT,
)
BACKUP = st.builds(
    c.BackupComponentsDocument,
    select_components=FLAG,
    bootable_system_state=FLAG,
    backup_type=st.sampled_from(e.BackupType),
    partial_files=FLAG,
    restore_type=st.sampled_from(e.RestoreType),
    snapshot_set_id=XML_TEXT,
    session_id=XML_TEXT,
    writers=_lists(
        st.builds(
            c.WriterComponents,
            writer_id=XML_TEXT,
            instance_id=XML_TEXT,
            name=XML_TEXT,
            instance_name=XML_TEXT,
            backup_schema=NUMBER,
            components=_lists(_COMPONENT),
        )
    ),
)

# the published example: (full path, selectable)
MY_WRITER = [
    ("Executables", False),
    ("Executables\\ConfigFiles", False),
    ("LicenseInfo", True),
    ("Security", True),
    ("Security\\UserInfo", False),
    ("Security\\Certificates", False),
    ("writerData", True),
    ("writerData\\Set1", False),
    ("writerData\\Set1\\Jan", False),
    ("writerData\\Set1\\Dec", False),
    ("writerData\\Set2", False),
    ("writerData\\Set2\\Jan", False),
    ("writerData\\Set2\\Dec", False),
    ("writerData\\QueryLogs\\Query", False),
    ("writerData\\Usage", True),
    ("writerData\\Usage\\Jan", False),
    ("writerData\\Usage\\Dec", False),
]


def make_component(path: str, selectable: bool, **fields: Any) -> m.ComponentInfo:
    """A file group with a full path."""
    logical_path, _, name = path.rpartition("\\")
    return m.ComponentInfo(
        e.ComponentType.FILEGROUP, name=name, logical_path=logical_path, selectable=selectable, **fields
    )


def make_writer(*components: m.ComponentInfo, **fields: Any) -> m.WriterMetadata:
    """A writer with these components."""
    identity = {"writer_id": WRITER_ID, "instance_id": INSTANCE_ID, "name": "MyWriter"}
    return m.WriterMetadata(components=components, **{**identity, **fields})


@pytest.fixture(scope="session")
def my_writer() -> m.WriterMetadata:
    """The writer of the published example, each component with one file set of its own."""
    return make_writer(
        *(
            make_component(path, selectable, files=(m.FileSet("/srv/" + path.replace("\\", "/"), "*"),))
            for path, selectable in MY_WRITER
        )
    )


@pytest.fixture(scope="session")
def component() -> Any:
    """Make a component: ``component(path, selectable, **fields)``."""
    return make_component


@pytest.fixture(scope="session")
def writer() -> Any:
    """Make a writer: ``writer(*components, **fields)``."""
    return make_writer


@pytest.fixture(scope="session")
def metadata_documents() -> st.SearchStrategy[m.WriterMetadata]:
    """Any metadata that XML can hold."""
    return METADATA


@pytest.fixture(scope="session")
def backup_documents() -> st.SearchStrategy[c.BackupComponentsDocument]:
    """Any backup components document that XML can hold."""
    return BACKUP
