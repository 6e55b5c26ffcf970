"""File sets as path strings, against find(1) on a real tree and against plain definitions."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ALL_BACKUPS, BackupType, ComponentType, FileSetMask
from shadowset.vss.filespec import (
    FileSelection,
    candidate_file_sets,
    contains,
    created_during_backup,
    expand,
    files_required,
    is_absolute,
    mapped_path,
    matches,
    name_matches,
    normal_path,
    normalise,
    required_file_sets,
    snapshot_required,
    source_directory,
    source_path,
)
from shadowset.vss.metadata import ComponentInfo, ExcludedFiles, FileSet, LocationMapping


@pytest.mark.parametrize(
    ("filespec", "name", "fits"),
    [
        ("*", "", True),
        ("*", ".hidden", True),
        ("*.*", "no_dot", True),
        ("*.mdf", "a.mdf", True),
        ("*.mdf", "a.MDF", False),
        ("*.mdf", "a.mdf.bak", False),
        ("a*b*c", "aXXbYYc", True),
        ("a*b*c", "aXXbYY", False),
        ("?", "", False),
        ("?", "a", True),
        ("??", "a", False),
        ("a?c", "abc", True),
        ("*a*", "bab", True),
        ("**", "x", True),
        ("", "", True),
        ("", "a", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a.b", "axb", False),
        ("*\n", "x\n", True),
    ],
)
def test_patterns(filespec: str, name: str, fits: bool) -> None:
    assert name_matches(filespec, name) is fits


@settings(max_examples=500, deadline=None)
@given(st.text("ab*?.", max_size=8).filter(lambda spec: spec != "*.*"), st.text("ab.", max_size=10))
def test_patterns_against_regular_expressions(filespec: str, name: str) -> None:
    pattern = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in filespec)
    assert name_matches(filespec, name) == bool(re.fullmatch(pattern, name))


def test_a_pattern_made_to_be_slow_is_not() -> None:
    def elapsed(length: int) -> float:
        start = time.perf_counter()
        assert not name_matches("a*" * length + "b", "a" * 10 * length)
        return time.perf_counter() - start

    elapsed(10)
    short, long = elapsed(20), elapsed(80)
    assert long < max(short, 1e-4) * 400, "growth beyond the product of both lengths"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$DATA/x", "/srv/data/x"),
        ("${DATA}x", "/srv/datax"),
        ("%DATA%/x", "/srv/data/x"),
        ("/a/$A_1%DATA%", "/a/one/srv/data"),
        ("$NEST", "$DATA"),
        ("/100%", "/100%"),
        ("/50%/60%", "/50%/60%"),
        ("/cash$", "/cash$"),
        ("/$$DATA", "/$DATA"),
        ("/%%DATA%%", "/%DATA%"),
        ("/plain", "/plain"),
    ],
)
def test_variables(path: str, value: str) -> None:
    assert expand(path, {"DATA": "/srv/data", "A_1": "one", "NEST": "$DATA"}) == value


@pytest.mark.parametrize("path", ["$NOPE/x", "${NOPE}", "/a/%NOPE%", "$data"])
def test_a_variable_that_is_not_set_is_refused(path: str) -> None:
    with pytest.raises(VssError, match=r"uses the variable (NOPE|data), which is not set") as caught:
        expand(path, {"DATA": "/srv"})
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND


def test_paths_are_compared_in_their_plain_form() -> None:
    assert normalise("//a//b/./c/../d/") == "/a/b/d"
    assert normalise("") == ""
    assert contains("/", "/a")
    assert contains("/a", "/a")
    assert not contains("/a", "/ab")
    assert is_absolute("/a")
    assert is_absolute("$A/b")
    assert is_absolute("%A%/b")
    assert not is_absolute("a/%A%")
    assert not is_absolute("%A")


@pytest.mark.parametrize(
    ("rule", "path", "fits"),
    [
        (FileSet("/d", "*"), "/d/f", True),
        (FileSet("/d/", "*"), "/d//f", True),
        (FileSet("/d", "*"), "/d/e/f", False),
        (FileSet("/d", "*", recursive=True), "/d/e/f", True),
        (FileSet("/d", "*.x", recursive=True), "/d/e/f", False),
        (FileSet("/d", "*", recursive=True), "/de/f", False),
        (FileSet("/", "*"), "/f", True),
        (FileSet("/", "*"), "/d/f", False),
        (FileSet("/", "*", recursive=True), "/d/e/f", True),
        (FileSet("$D", "f"), "/srv/f", True),
        (ExcludedFiles("%D%/t", "*.tmp", recursive=True), "/srv/t/u/a.tmp", True),
        (FileSet("/d", "e"), "/d/e/f", False),
    ],
)
def test_what_belongs_to_a_file_set(rule: FileSet, path: str, fits: bool) -> None:
    assert matches(rule, path, {"D": "/srv"}) is fits


@pytest.mark.vss(46)
def test_exclusion_wins_and_the_first_file_set_counts() -> None:
    first, second = FileSet("/d", "*.x", recursive=True), FileSet("/d/e", "*")
    selection = FileSelection([first, second], [ExcludedFiles("/d/e", "skip*")], {})
    assert selection.file_set("/d/e/a.x") is first
    assert selection.file_set("/d/e/a.y") is second
    assert selection.file_set("/d/a.y") is None
    assert selection.file_set("/d/e/skip.x") is None
    assert selection.is_excluded("/d/e/skip.x")
    assert selection.file_set("/d/skip.x") is first


def test_exclusion_goes_by_the_normal_path_and_not_by_the_alternate_one() -> None:
    files = FileSet("$DB", "*", recursive=True, alternate_path="/spit")
    variables = {"DB": "/srv/db"}
    assert source_directory(files, variables) == "/spit"
    assert normal_path(files, "/spit/a/b.x", variables) == "/srv/db/a/b.x"
    assert source_path(files, "/srv/db/a/b.x", variables) == "/spit/a/b.x"
    by_normal = FileSelection([files], [ExcludedFiles("/srv/db", "*", recursive=True)], variables)
    assert by_normal.file_set(normal_path(files, "/spit/a", variables)) is None
    by_alternate = FileSelection([files], [ExcludedFiles("/spit", "*", recursive=True)], variables)
    assert by_alternate.file_set(normal_path(files, "/spit/a", variables)) is files
    plain = FileSet("/srv/db", "*")
    assert source_path(plain, "/srv/db/x", {}) == normal_path(plain, "/srv/db/x", {}) == "/srv/db/x"
    root = FileSet("/", "*", recursive=True, alternate_path="/spit")
    assert source_path(root, "/etc/x", {}) == "/spit/etc/x"
    with pytest.raises(VssError, match="does not lie in '/spit'"):
        normal_path(files, "/srv/db/a", variables)


def test_a_location_mapping_moves_only_its_own_files() -> None:
    mapping = LocationMapping("/srv/db", "*.x", True, "$NEW/db")
    assert mapped_path(mapping, "/srv/db/a/b.x", {"NEW": "/new"}) == "/new/db/a/b.x"
    with pytest.raises(VssError, match="is not for the file"):
        mapped_path(mapping, "/srv/db/a/b.y", {"NEW": "/new"})


BITS = {
    BackupType.FULL: FileSetMask.FULL_BACKUP_REQUIRED,
    BackupType.COPY: FileSetMask.FULL_BACKUP_REQUIRED,
    BackupType.OTHER: FileSetMask.FULL_BACKUP_REQUIRED,
    BackupType.UNDEFINED: FileSetMask.FULL_BACKUP_REQUIRED,
    BackupType.DIFFERENTIAL: FileSetMask.DIFFERENTIAL_BACKUP_REQUIRED,
    BackupType.INCREMENTAL: FileSetMask.INCREMENTAL_BACKUP_REQUIRED,
    BackupType.LOG: FileSetMask.LOG_BACKUP_REQUIRED,
}


@pytest.mark.vss(43)
@pytest.mark.parametrize("backup_type", BackupType)
def test_masks_by_backup_type(backup_type: BackupType) -> None:
    for flag in (flag for flag in FileSetMask if flag < FileSetMask.FULL_SNAPSHOT_REQUIRED):
        assert files_required(flag, backup_type) == (BITS[backup_type] == flag)
        assert not snapshot_required(flag, backup_type)
        assert snapshot_required(flag << 8, backup_type) == (BITS[backup_type] == flag)
        assert not files_required(flag << 8, backup_type)
    assert files_required(ALL_BACKUPS, backup_type)
    assert snapshot_required(ALL_BACKUPS, backup_type)
    assert not snapshot_required(FileSetMask.CREATED_DURING_BACKUP, backup_type)
    assert created_during_backup(ALL_BACKUPS | FileSetMask.CREATED_DURING_BACKUP)
    assert not created_during_backup(ALL_BACKUPS)


@pytest.mark.vss(42)
def test_a_log_backup_takes_log_files_only() -> None:
    base = FileSet("/db", "*.mdf")
    log = FileSet("/db", "*.ldf", mask=FileSetMask.FULL_BACKUP_REQUIRED | FileSetMask.LOG_BACKUP_REQUIRED)
    database = ComponentInfo(ComponentType.DATABASE, "db", database_files=(base,), log_files=(log,))
    assert candidate_file_sets(database, BackupType.LOG) == (log,)
    assert required_file_sets(database, BackupType.LOG) == (log,)
    assert required_file_sets(database, BackupType.FULL) == (base, log)
    assert candidate_file_sets(database, BackupType.INCREMENTAL) == (base, log)
    assert required_file_sets(database, BackupType.INCREMENTAL) == (base,)


# ---- a real tree and find(1) ----

NAMES = ["a", "b.x", "c.y", ".h.x"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for directory in ("", "d", "d/e", "d.x", "d.x/d"):
        (root / directory).mkdir(exist_ok=True)
        for name in NAMES:
            (root / directory / name).write_bytes(b"")
    return root


@pytest.mark.vss(41)
@pytest.mark.parametrize("directory", ["", "d", "d/e", "d.x", "nothing"])
@pytest.mark.parametrize("filespec", ["*", "*.x", "?", "?.?", "*x*", "b.x"])
@pytest.mark.parametrize("recursive", [True, False])
def test_the_same_files_as_find(tree: Path, directory: str, filespec: str, recursive: bool) -> None:
    where = tree / directory
    depth = [] if recursive else ["-maxdepth", "1"]
    command = ["find", str(where), *depth, "-type", "f", "-name", filespec]
    expected = set(subprocess.run(command, capture_output=True, text=True, check=where.exists()).stdout.split())
    everything = {str(path) for path in tree.rglob("*") if path.is_file()}
    rule = FileSet(f"$ROOT/{directory}", filespec, recursive=recursive)
    assert {path for path in everything if matches(rule, path, {"ROOT": str(tree)})} == expected
    selection = FileSelection([rule], [ExcludedFiles("$ROOT/d", "*.x", recursive=True)], {"ROOT": str(tree)})
    excluded = {path for path in expected if path.startswith(f"{tree}/d/") and path.endswith(".x")}
    assert {path for path in everything if selection.file_set(path)} == expected - excluded
