"""Dependencies between writers, and the plan of a whole backup with the reason for everything that is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ALL_BACKUPS, BackupType, ComponentType, FileSetMask
from shadowset.vss.metadata import ComponentInfo, Dependency, FileSet, WriterMetadata
from shadowset.vss.selection import (
    BackupPlan,
    ComponentKey,
    DropReason,
    Selector,
    check_cycles,
    check_dependencies,
    dependency_target,
    plan_backup,
    remote_dependencies,
    unmet_dependencies,
)

OTHER_ID = "{7C3F0B52-1111-4222-8333-944455556666}"
OTHER_KEY = OTHER_ID.strip("{}").lower()


def _volume(files: FileSet) -> set[str]:
    """Files below /outside lie on another volume, below /none there are none."""
    if files.path.startswith("/none"):
        return set()
    return {"outside"} if files.path.startswith("/outside") else {"data"}


def _explicit(plan: BackupPlan) -> dict[str, set[str]]:
    return {w.metadata.name: {c.full_path for c in w.explicit} for w in plan.writers}


def _implied(plan: BackupPlan) -> set[str]:
    return {c.full_path for w in plan.writers for c in w.implied}


def _reasons(plan: BackupPlan) -> dict[str, DropReason]:
    return {d.path: d.reason for d in plan.dropped}


def _moved(metadata: WriterMetadata, *paths: str) -> WriterMetadata:
    """The same writer with the files of some components on another volume."""
    return WriterMetadata(
        metadata.writer_id,
        metadata.instance_id,
        metadata.name,
        components=tuple(
            ComponentInfo(
                c.type,
                c.name,
                c.logical_path,
                selectable=c.selectable,
                files=(FileSet("/outside/x", "*"),) if c.full_path in paths else c.files,
            )
            for c in metadata.components
        ),
    )


MANDATORY = {"Executables", "Executables\\ConfigFiles"}


def test_everything_is_taken_from_the_top(my_writer: WriterMetadata) -> None:
    plan = plan_backup([my_writer], {"data"}, _volume)
    assert _explicit(plan) == {"MyWriter": MANDATORY | {"LicenseInfo", "Security", "writerData"}}
    assert len(_implied(plan)) == 12
    assert plan.dropped == ()


def test_a_member_outside_takes_its_set_along_but_not_a_set_within(my_writer: WriterMetadata) -> None:
    plan = plan_backup([_moved(my_writer, "writerData\\Set1\\Jan")], {"data"}, _volume)
    assert _explicit(plan)["MyWriter"] == MANDATORY | {"LicenseInfo", "Security", "writerData\\Usage"}
    reasons = _reasons(plan)
    assert reasons["writerData\\Set1\\Jan"] == DropReason.OUTSIDE_VOLUMES
    assert reasons["writerData"] == DropReason.INCLUDES_DROPPED
    assert reasons["writerData\\Set2\\Dec"] == DropReason.NOT_REACHABLE
    assert reasons["writerData\\QueryLogs\\Query"] == DropReason.NOT_REACHABLE
    assert "writerData\\Usage\\Jan" not in reasons
    causes = {d.path: d.cause for d in plan.dropped}
    assert "/outside/x/*" in causes["writerData\\Set1\\Jan"]
    assert "outside, which is not in the set" in causes["writerData\\Set1\\Jan"]
    assert "writerData\\\\Set1\\\\Jan" in causes["writerData"]


def test_a_mandatory_component_outside_takes_the_writer_along(my_writer: WriterMetadata) -> None:
    plan = plan_backup([_moved(my_writer, "Executables\\ConfigFiles")], {"data"}, _volume)
    assert plan.writers == ()
    reasons = _reasons(plan)
    assert reasons.pop("Executables\\ConfigFiles") == DropReason.OUTSIDE_VOLUMES
    assert set(reasons.values()) == {DropReason.MANDATORY_DROPPED}
    assert len(reasons) == 16


def test_excluded_components_and_writers(my_writer: WriterMetadata) -> None:
    plan = plan_backup([my_writer], {"data"}, _volume, excluded=[Selector("MyWriter", "writerData\\Usage")])
    assert "writerData" not in _explicit(plan)["MyWriter"]
    assert _reasons(plan)["writerData\\Usage"] == DropReason.EXCLUDED
    plan = plan_backup([my_writer], {"data"}, _volume, excluded=[Selector(my_writer.writer_id.upper())])
    assert plan.writers == ()
    assert set(_reasons(plan).values()) == {DropReason.EXCLUDED}


def test_required_items_fail_the_plan_when_they_are_missing(my_writer: WriterMetadata) -> None:
    moved = _moved(my_writer, "Security\\UserInfo")
    plan_backup([moved], {"data"}, _volume, required=[Selector("MyWriter"), Selector("MyWriter", "LicenseInfo")])
    with pytest.raises(VssError, match=r"MyWriter:\\Security must be in the backup.*'Security\\\\UserInfo'") as caught:
        plan_backup([moved], {"data"}, _volume, required=[Selector("MyWriter", "Security")])
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND


@pytest.mark.parametrize("text", ["Nobody", "MyWriter:\\Nothing", "MyWriter:\\Security\\Nothing"])
@pytest.mark.parametrize("role", ["wanted", "excluded", "required"])
def test_a_selector_that_names_nothing_is_refused(my_writer: WriterMetadata, text: str, role: str) -> None:
    selectors: dict[str, Any] = {role: [Selector.parse(text)]}
    with pytest.raises(VssError, match=r"list the|list its") as caught:
        plan_backup([my_writer], {"data"}, _volume, **selectors)
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND


def test_selectors_are_written_as_vshadow_takes_them() -> None:
    assert Selector.parse("MSDE Writer:\\host\\db") == Selector("MSDE Writer", "host\\db")
    assert Selector.parse("A: B") == Selector("A: B")
    assert str(Selector.parse("W:\\a\\b")) == "W:\\a\\b"


def test_wanted_limits_the_backup(my_writer: WriterMetadata, component: Any, writer: Any) -> None:
    other = writer(component("x", True), writer_id=OTHER_ID, name="Other")
    plan = plan_backup([my_writer, other], {"data"}, _volume, wanted=[Selector("MyWriter", "writerData\\Usage")])
    assert _explicit(plan) == {"MyWriter": MANDATORY | {"writerData\\Usage"}}
    with pytest.raises(VssError, match="comes with"):
        both = [Selector("MyWriter", "writerData"), Selector("MyWriter", "writerData\\Usage")]
        plan_backup([my_writer], {"data"}, _volume, wanted=both)
    whole = plan_backup([my_writer, other], {"data"}, _volume, wanted=[Selector("Other")])
    assert _explicit(whole) == {"Other": {"x"}}
    assert plan_backup([my_writer], {"data"}, _volume, wanted=[]).writers == ()


def test_only_files_that_need_the_shadow_copy_bind_to_its_volumes(component: Any, writer: Any) -> None:
    mask = ALL_BACKUPS & ~FileSetMask.FULL_SNAPSHOT_REQUIRED
    metadata = writer(
        component("live", True, files=(FileSet("/outside/a", "*", mask=mask),)),
        component("empty", True, files=(FileSet("/none", "*"),)),
        ComponentInfo(
            ComponentType.DATABASE,
            "db",
            database_files=(FileSet("/outside/db", "*"),),
            log_files=(FileSet("/data/log", "*"),),
        ),
    )
    assert _explicit(plan_backup([metadata], {"data"}, _volume)) == {"MyWriter": {"live", "empty"}}
    logs = plan_backup([metadata], {"data"}, _volume, backup_type=BackupType.LOG)
    assert _explicit(logs) == {"MyWriter": {"live", "empty", "db"}}
    changes = plan_backup([metadata], {"data"}, _volume, backup_type=BackupType.INCREMENTAL)
    assert _explicit(changes) == {"MyWriter": {"empty"}}


def test_a_writer_without_components_is_reported(writer: Any) -> None:
    plan = plan_backup([writer()], {"data"}, _volume)
    assert plan.writers == ()
    assert [d.reason for d in plan.dropped] == [DropReason.NO_COMPONENTS]


# ---- dependencies ----


def _depends(path: str, name: str, writer_id: str = OTHER_ID) -> tuple[Dependency, ...]:
    return (Dependency(writer_id, path, name),)


@pytest.mark.parametrize(
    ("path", "name", "host", "target"),
    [
        ("", "db", "", "db"),
        ("\\", "db", "", "db"),
        ("host\\sql", "db", "", "host\\sql\\db"),
        ("\\\\server\\", "db", "server", "db"),
        ("\\\\server", "db", "server", "db"),
        ("\\\\10.0.0.7\\sql\\inst", "db", "10.0.0.7", "sql\\inst\\db"),
        ("", "\\\\server\\db", "server", "db"),
        ("sql", "\\\\server\\db", "server", "sql\\db"),
        ("", "\\\\server\\sql\\db", "server", "sql\\db"),
    ],
)
def test_where_a_dependency_points(path: str, name: str, host: str, target: str) -> None:
    assert dependency_target(Dependency(OTHER_ID, path, name)) == (host, ComponentKey(OTHER_KEY, target))


@pytest.fixture
def pair(component: Any, writer: Any) -> list[WriterMetadata]:
    """A front end whose site depends on a database that comes only with its server."""
    return [
        writer(
            component("site", True, dependencies=_depends("server", "db")),
            component("static", True),
            name="Front",
            writer_id="Front",
        ),
        writer(
            component("server", True),
            component("server\\db", False),
            component("unrelated", True),
            writer_id=OTHER_ID,
            name="Back",
        ),
    ]


SITE, DATABASE = ComponentKey("front", "site"), ComponentKey(OTHER_KEY, "server\\db")


@pytest.mark.vss(50)
def test_unmet_dependencies(pair: list[WriterMetadata]) -> None:
    assert unmet_dependencies(pair, {SITE}) == [(SITE, DATABASE, True)]
    assert unmet_dependencies(pair, {SITE, DATABASE}) == []
    assert unmet_dependencies(pair[:1], {SITE}) == [(SITE, DATABASE, False)]
    assert unmet_dependencies(pair, {DATABASE}) == []
    check_dependencies(pair, {SITE, DATABASE})
    with pytest.raises(VssError, match="not selected; select both or neither") as caught:
        check_dependencies(pair, {SITE})
    assert caught.value.code == Code.E_INVALIDARG
    with pytest.raises(VssError, match="which is not here") as caught:
        check_dependencies(pair[:1], {SITE})
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND


def test_wanting_one_brings_what_it_depends_on(pair: list[WriterMetadata]) -> None:
    plan = plan_backup(pair, {"data"}, _volume, wanted=[Selector("Front", "site")])
    assert _explicit(plan) == {"Front": {"site"}, "Back": {"server"}}
    plan = plan_backup(pair, {"data"}, _volume, wanted=[Selector("Front", "static")])
    assert _explicit(plan) == {"Front": {"static"}}


@pytest.mark.parametrize("wanted", [None, [Selector("Front")]])
def test_without_its_target_a_component_is_dropped(pair: list[WriterMetadata], wanted: Any) -> None:
    excluded = [Selector("Back", "server")]
    plan = plan_backup(pair, {"data"}, _volume, excluded=excluded, wanted=wanted)
    assert _explicit(plan)["Front"] == {"static"}
    assert _reasons(plan)["site"] == DropReason.DEPENDENCY
    alone = plan_backup(pair[:1], {"data"}, _volume, wanted=wanted)
    assert _explicit(alone) == {"Front": {"static"}}


def test_dropping_goes_on_through_chains(component: Any, writer: Any) -> None:
    chain = [
        writer(component("c", True, dependencies=_depends("", "c", f"w{n + 1}")), writer_id=f"w{n}", name=f"w{n}")
        for n in range(40)
    ]
    assert plan_backup(chain, {"data"}, _volume).writers == ()
    chain.append(writer(component("c", True), writer_id="w40", name="w40"))
    assert len(plan_backup(chain, {"data"}, _volume).writers) == 41
    pulled = plan_backup(chain, {"data"}, _volume, wanted=[Selector("w10")])
    assert len(pulled.writers) == 31


def test_remote_dependencies_are_handed_on(component: Any, writer: Any) -> None:
    metadata = writer(component("site", True, dependencies=_depends("\\\\sql7\\inst", "db")))
    plan = plan_backup([metadata], {"data"}, _volume)
    site = ComponentKey(metadata.writer_id, "site")
    assert plan.remote == ((site, ("sql7", ComponentKey(OTHER_KEY, "inst\\db"))),)
    assert unmet_dependencies([metadata], {site}) == []
    assert remote_dependencies([metadata], set()) == []


@pytest.mark.vss(52)
def test_circles_are_found(component: Any, writer: Any) -> None:
    def make(n: int, target: int, **fields: Any) -> WriterMetadata:
        made: WriterMetadata = writer(
            component("c", True, dependencies=_depends("", "c", f"w{target}")), writer_id=f"w{n}", name=f"w{n}"
        )
        return made

    check_cycles([make(0, 1), make(1, 2), make(2, 9)])
    with pytest.raises(VssError, match="circle") as caught:
        check_cycles([make(9, 0), make(0, 1), make(1, 2), make(2, 0)])
    assert caught.value.code == Code.E_INVALIDARG
    assert caught.value.message.count("'c'") == 4
    with pytest.raises(VssError, match="circle"):
        check_cycles([make(0, 0)])
    # a circle is still one backup: both or neither
    assert len(plan_backup([make(0, 1), make(1, 0)], {"data"}, _volume).writers) == 2


def test_a_circle_by_way_of_a_component_set(component: Any, writer: Any) -> None:
    front = writer(
        component("set", True), component("set\\m", False, dependencies=_depends("", "x", "b")), writer_id="a"
    )
    with pytest.raises(VssError, match="circle"):
        check_cycles([front, writer(component("x", True, dependencies=_depends("", "set", "a")), writer_id="b")])
    check_cycles([front, writer(component("x", True, dependencies=_depends("", "other", "a")), writer_id="b")])


def test_a_long_chain_needs_no_recursion(component: Any, writer: Any) -> None:
    parts = [component(f"c{n}", True, dependencies=_depends("", f"c{n + 1}", "w")) for n in range(5000)]
    check_cycles([writer(*parts, writer_id="w")])
    with pytest.raises(VssError, match="circle"):
        check_cycles([writer(*parts, component("c5000", True, dependencies=_depends("", "c0", "w")), writer_id="w")])


# ---- any writers at all ----

PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("\\".join)
PLACES = st.sampled_from(["/data", "/data", "/data", "/outside"])


@st.composite
def _writers(draw: st.DrawFn) -> list[WriterMetadata]:
    writers = []
    for number in range(draw(st.integers(1, 3))):
        components = []
        for path in draw(st.lists(PATHS, unique=True, max_size=6)):
            logical_path, _, name = path.rpartition("\\")
            targets = draw(st.lists(st.tuples(st.integers(0, 3), PATHS), max_size=1))
            components.append(
                ComponentInfo(
                    ComponentType.FILEGROUP,
                    name,
                    logical_path,
                    selectable=draw(st.booleans()),
                    files=(FileSet(draw(PLACES), "*"),),
                    dependencies=tuple(Dependency(f"w{n}", "", target) for n, target in targets),
                )
            )
        writers.append(WriterMetadata(f"w{number}", f"i{number}", f"W{number}", components=tuple(components)))
    return writers


@settings(max_examples=400, deadline=None)
@given(_writers(), st.data())
def test_any_plan_keeps_its_promises(writers: list[WriterMetadata], data: st.DataObject) -> None:
    wanted = None
    if data.draw(st.booleans()):
        wanted = [Selector(w.name) for w in data.draw(st.lists(st.sampled_from(writers), unique_by=id))]
    plan = plan_backup(writers, {"data"}, _volume, wanted=wanted)
    selected = set()
    for planned in plan.writers:
        taken = (*planned.explicit, *planned.implied)
        paths = [c.full_path for c in taken]
        assert len(set(paths)) == len(paths)
        assert all(files.path == "/data" for c in taken for files in c.file_sets)
        selected |= {ComponentKey(planned.metadata.writer_id, path) for path in paths}
    assert unmet_dependencies(writers, selected) == []
    dropped = {ComponentKey(d.writer_id, d.path) for d in plan.dropped}
    assert not dropped & selected
    if wanted is None:
        everything = {ComponentKey(w.writer_id, c.full_path) for w in writers for c in w.components}
        assert everything == selected | {key for key in dropped if key.path}
