"""The rules of selection: the published example as a table, and random trees against the rules written out plainly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ComponentFlag, ComponentType, UsageType, WriterRestore
from shadowset.vss.metadata import ComponentInfo, FileSet, RestoreMethod, WriterMetadata
from shadowset.vss.selection import (
    check_explicit,
    component_set,
    defining_component,
    explicit_components,
    find_file_set,
    implied_components,
    mandatory_components,
    missing_system_state,
    restore_selection,
    selectable_ancestor,
    system_state_components,
    topmost_selectable,
    wants_restore_events,
)

MANDATORY = {"Executables", "Executables\\ConfigFiles"}
SECURITY = {"Security\\UserInfo", "Security\\Certificates"}
USAGE = {"writerData\\Usage\\Jan", "writerData\\Usage\\Dec"}
SETS = {f"writerData\\Set{n}{month}" for n in (1, 2) for month in ("", "\\Jan", "\\Dec")}
WRITER_DATA = SETS | USAGE | {"writerData\\QueryLogs\\Query", "writerData\\Usage"}


def _paths(components: Any) -> set[str]:
    return {component.full_path for component in components}


@pytest.mark.vss(39, 40)
@pytest.mark.parametrize(
    ("wanted", "explicit", "implied"),
    [
        ([], MANDATORY, set()),
        (["LicenseInfo"], MANDATORY | {"LicenseInfo"}, set()),
        (["Security"], MANDATORY | {"Security"}, SECURITY),
        (["writerData"], MANDATORY | {"writerData"}, WRITER_DATA),
        (["writerData\\Usage"], MANDATORY | {"writerData\\Usage"}, USAGE),
        (["writerData\\Usage", "Security"], MANDATORY | {"writerData\\Usage", "Security"}, USAGE | SECURITY),
        (["Executables"], MANDATORY, set()),
    ],
)
def test_the_published_example(
    my_writer: WriterMetadata, wanted: list[str], explicit: set[str], implied: set[str]
) -> None:
    chosen = _paths(explicit_components(my_writer, wanted))
    assert chosen == explicit
    assert _paths(implied_components(my_writer, chosen)) == implied


@pytest.mark.parametrize(
    ("wanted", "code", "match"),
    [
        (["writerData", "writerData\\Usage"], Code.E_INVALIDARG, r"Usage' .* comes with 'writerData'"),
        (["Security\\UserInfo"], Code.E_INVALIDARG, "not selectable; it comes with 'Security'"),
        (["Security", "Security\\UserInfo"], Code.E_INVALIDARG, "comes with 'Security'"),
        (["writerData\\Usage\\Jan"], Code.E_INVALIDARG, r"comes with 'writerData\\\\Usage'"),
        (["writerData\\QueryLogs"], Code.VSS_E_OBJECT_NOT_FOUND, "has no component"),
        (["security"], Code.VSS_E_OBJECT_NOT_FOUND, "has no component 'security'"),
    ],
)
def test_the_published_example_refuses(my_writer: WriterMetadata, wanted: list[str], code: int, match: str) -> None:
    with pytest.raises(VssError, match=match) as caught:
        explicit_components(my_writer, wanted)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("path", "explicit", "code"),
    [
        ("Security", (), None),
        ("Executables\\ConfigFiles", ("Executables",), None),
        ("writerData\\Usage", ("Security",), None),
        ("writerData\\Usage", ("writerData",), Code.E_INVALIDARG),
        ("writerData", ("writerData\\Usage",), Code.E_INVALIDARG),
        ("Security\\UserInfo", (), Code.E_INVALIDARG),
        ("Security", ("Security",), Code.VSS_E_OBJECT_ALREADY_EXISTS),
        ("Nothing", (), Code.VSS_E_OBJECT_NOT_FOUND),
    ],
)
def test_adding_one_by_one(my_writer: WriterMetadata, path: str, explicit: tuple[str, ...], code: int | None) -> None:
    if code is None:
        assert check_explicit(my_writer, path, explicit).full_path == path
        return
    with pytest.raises(VssError) as caught:
        check_explicit(my_writer, path, explicit)
    assert caught.value.code == code


def test_sets_nest_and_missing_path_elements_are_no_break(my_writer: WriterMetadata) -> None:
    assert _paths(component_set(my_writer, "writerData")) == WRITER_DATA
    assert _paths(component_set(my_writer, "writerData\\Usage")) == USAGE
    assert component_set(my_writer, "Executables") == ()
    nearest = selectable_ancestor(my_writer, "writerData\\QueryLogs\\Query")
    assert nearest is not None
    assert nearest.full_path == "writerData"
    inner = selectable_ancestor(my_writer, "writerData\\Usage\\Jan")
    assert inner is not None
    assert inner.full_path == "writerData\\Usage"
    assert selectable_ancestor(my_writer, "Executables\\ConfigFiles") is None


def test_a_common_beginning_of_the_name_is_no_ancestor(component: Any, writer: Any) -> None:
    metadata = writer(component("Data", True), component("DataBase", False), component("DataBase\\x", False))
    assert _paths(mandatory_components(metadata)) == {"DataBase", "DataBase\\x"}
    assert check_explicit(metadata, "Data", ["DataBase", "DataBase\\x"]).name == "Data"


def test_file_properties_are_found_by_defining_component_and_exact_triple(my_writer: WriterMetadata) -> None:
    member, files = find_file_set(my_writer, "Security", "/srv/Security/UserInfo", "*", False)
    assert (member.name, files) == ("UserInfo", FileSet("/srv/Security/UserInfo", "*"))
    for path, spec, recursive in (
        ("/srv/Security/UserInfo", "*", True),
        ("/srv/Security/UserInfo", "?", False),
        ("/srv/writerData", "*", False),
    ):
        with pytest.raises(VssError, match="has no file set") as caught:
            find_file_set(my_writer, "Security", path, spec, recursive)
        assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND


# ---- restore ----


@pytest.fixture
def restorable(component: Any, writer: Any) -> WriterMetadata:
    metadata: WriterMetadata = writer(
        component("Top", True, selectable_for_restore=False),
        component("Top\\Mid", True, selectable_for_restore=True),
        component("Top\\Mid\\Leaf", False, selectable_for_restore=True),
        component("Top\\Fixed", False, selectable_for_restore=False),
        component("Other", True),
    )
    return metadata


@pytest.mark.vss(70)
@pytest.mark.parametrize(
    ("explicit", "path", "defining", "member"),
    [
        (["Top"], "Top", "Top", None),
        (["Top"], "Top\\Mid", "Top", "Top\\Mid"),
        (["Top"], "Top\\Mid\\Leaf", "Top", "Top\\Mid\\Leaf"),
        (["Top\\Mid"], "Top\\Mid\\Leaf", "Top\\Mid", "Top\\Mid\\Leaf"),
    ],
)
def test_what_is_restored_by_itself(
    restorable: WriterMetadata, explicit: list[str], path: str, defining: str, member: str | None
) -> None:
    selection = restore_selection(restorable, explicit, path)
    assert selection.defining.full_path == defining
    assert (selection.member and selection.member.full_path) == member


@pytest.mark.parametrize(
    ("explicit", "path", "code"),
    [
        (["Top"], "Top\\Fixed", Code.E_INVALIDARG),
        (["Top"], "Other", Code.VSS_E_OBJECT_NOT_FOUND),
        (["Top\\Mid"], "Top\\Fixed", Code.VSS_E_OBJECT_NOT_FOUND),
        (["Top"], "None", Code.VSS_E_OBJECT_NOT_FOUND),
    ],
)
def test_what_is_not(restorable: WriterMetadata, explicit: list[str], path: str, code: int) -> None:
    with pytest.raises(VssError) as caught:
        restore_selection(restorable, explicit, path)
    assert caught.value.code == code


def test_a_writer_that_never_restores(writer: Any) -> None:
    assert wants_restore_events(writer())
    assert not wants_restore_events(writer(restore_method=RestoreMethod(writer_restore=WriterRestore.NEVER)))


@pytest.mark.vss(54)
def test_system_state_is_all_or_nothing(component: Any, writer: Any) -> None:
    parts = (
        component("Registry", False),
        component("Set", True),
        component("Set\\Member", False),
        component("Extra", True, flags=int(ComponentFlag.NOT_SYSTEM_STATE)),
    )
    service = writer(*parts, usage=UsageType.SYSTEMSERVICE)
    assert _paths(system_state_components(service)) == {"Registry", "Set", "Set\\Member"}
    assert system_state_components(writer(*parts, usage=UsageType.USERDATA)) == ()
    assert _paths(missing_system_state(service, ["Registry"])) == {"Set", "Set\\Member"}
    assert missing_system_state(service, ["Registry", "Set"]) == ()


# ---- random trees against the rules as they are written ----

NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("\\".join)
TREES = st.dictionaries(PATHS, st.booleans(), max_size=12)


def _writer_of(tree: dict[str, bool]) -> WriterMetadata:
    components = []
    for path, selectable in tree.items():
        logical_path, _, name = path.rpartition("\\")
        components.append(
            ComponentInfo(ComponentType.FILEGROUP, name, logical_path=logical_path, selectable=selectable)
        )
    return WriterMetadata("w", "i", "n", components=tuple(components))


def _ancestors(tree: dict[str, bool], path: str) -> set[str]:
    return {other for other, selectable in tree.items() if selectable and path.startswith(other + "\\")}


@settings(max_examples=400, deadline=None)
@given(TREES, st.data())
def test_random_trees(tree: dict[str, bool], data: st.DataObject) -> None:
    metadata = _writer_of(tree)
    mandatory = {p for p, selectable in tree.items() if not selectable and not _ancestors(tree, p)}
    wanted = data.draw(st.sets(st.sampled_from(sorted(tree)))) if tree else set()
    clash = any(_ancestors(tree, p) & wanted or (not tree[p] and _ancestors(tree, p)) for p in wanted)
    if clash:
        with pytest.raises(VssError) as caught:
            explicit_components(metadata, wanted)
        assert caught.value.code == Code.E_INVALIDARG
        return
    explicit = _paths(explicit_components(metadata, wanted))
    assert explicit == wanted | mandatory
    implied = _paths(implied_components(metadata, explicit))
    assert implied == {p for p in tree if p not in explicit and _ancestors(tree, p) & explicit}
    for path in explicit | implied:
        defining = defining_component(metadata, path, explicit).full_path
        assert defining == (path if path in explicit else max(_ancestors(tree, path) & explicit, key=len))


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_mandatory_and_topmost_take_everything_once(tree: dict[str, bool]) -> None:
    metadata = _writer_of(tree)
    topmost = _paths(topmost_selectable(metadata))
    explicit = _paths(explicit_components(metadata, topmost))
    implied = _paths(implied_components(metadata, explicit))
    assert explicit | implied == set(tree)
    assert not explicit & implied


@settings(max_examples=200, deadline=None)
@given(TREES, st.randoms())
def test_the_order_of_adding_does_not_matter(tree: dict[str, bool], random: Any) -> None:
    metadata = _writer_of(tree)
    order = sorted(tree)
    random.shuffle(order)
    added: list[str] = []
    for path in order:
        try:
            check_explicit(metadata, path, added)
        except VssError:
            continue
        added.append(path)
    for path in added:
        others = [other for other in added if other != path]
        assert check_explicit(metadata, path, others).full_path == path
    for path in tree:
        if path not in added:
            with pytest.raises(VssError):
                check_explicit(metadata, path, added)
