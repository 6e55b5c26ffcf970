"""Deletion that can be undone, who may delete, and the record of who did."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.daemon import aside as module
from shadowset.daemon.access import Access
from shadowset.daemon.actor import Actor, login_of
from shadowset.daemon.aside import Aside, refuse_shrinking
from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.server import Peer
from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.enums import Attribute, Context, SnapshotState

HOUR_MS = 3_600_000
KEPT = Context.FILE_SHARE_BACKUP | Attribute.NO_AUTO_RELEASE | Attribute.PERSISTENT


def copy(**more: Any) -> rp.SnapshotProperties:
    fields = {
        "snapshot_id": str(uuid.uuid4()), "snapshot_set_id": "set", "snapshots_count": 1, "device_object": "",
        "original_volume": "data", "originating_machine": "", "service_machine": "", "exposed_name": "",
        "exposed_path": "", "provider_id": "", "attributes": Attribute.NO_AUTO_RELEASE, "created_ns": 5,
        "status": SnapshotState.CREATED, "size": 0, "number": 1, "device_number": 1, "mount_points": [],
    }  # fmt: skip
    return rp.SnapshotProperties(**(fields | more))


@pytest.fixture
def catalogue(tmp_path: Path) -> Any:
    made = Catalogue(str(tmp_path / "catalogue.db"))
    yield made
    made.close()


def store(catalogue: Catalogue, *copies: rp.SnapshotProperties) -> None:
    record = rp.SetRecord("set", "", 5, 0, SnapshotState.CREATED, 0.0, list(copies), [], [], [], Failure())
    catalogue.put_set(record)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time since boot, which the test sets."""
    at = [1000.0]
    monkeypatch.setattr(module, "boot_time", lambda: at[0])
    return at


@pytest.mark.vss(106)
def test_the_wall_clock_brings_nothing_nearer_its_end(
    catalogue: Catalogue, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = copy()
    store(catalogue, kept)
    aside = Aside(catalogue, HOUR_MS)
    aside.put(kept)
    monkeypatch.setattr(module.time, "time_ns", lambda: 2**62)
    assert aside.due() == [] and aside.listed()[0].left_ms == HOUR_MS
    assert catalogue.snapshots() == []
    clock[0] += 3599
    assert aside.due() == [] and aside.listed()[0].left_ms == 1000
    clock[0] += 1
    assert [each.snapshot_id for each in aside.due()] == [kept.snapshot_id]


def test_time_is_counted_over_restarts_and_each_copy_has_its_own(catalogue: Catalogue, clock: list[float]) -> None:
    first, second = copy(), copy(device_number=2)
    store(catalogue, first, second)
    aside = Aside(catalogue, HOUR_MS)
    aside.put(first)
    clock[0] += 600
    aside.put(second)
    assert aside.due() == []
    clock[0] += 30
    assert [row.left_ms for row in aside.listed()] == [HOUR_MS - 630_000, HOUR_MS - 30_000]
    later = Aside(catalogue, HOUR_MS)  # half a minute was not written down yet, which is to the copies' good
    assert [row.left_ms for row in later.listed()] == [HOUR_MS - 600_000, HOUR_MS]


def test_without_a_delay_any_more_all_goes(catalogue: Catalogue, clock: list[float]) -> None:
    kept = copy()
    store(catalogue, kept)
    Aside(catalogue, HOUR_MS).put(kept)
    off = Aside(catalogue, 0)
    assert not off.takes(kept) and [each.snapshot_id for each in off.due()] == [kept.snapshot_id]


def test_only_what_outlives_its_session_is_put_aside(catalogue: Catalogue) -> None:
    aside = Aside(catalogue, HOUR_MS)
    assert aside.takes(copy()) and not aside.takes(copy(attributes=0))


def test_a_catalogue_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    from shadowset.daemon import catalogue as code

    path = str(tmp_path / "old.db")
    with sqlite3.connect(path) as db:
        db.executescript(f"BEGIN; {code._SCHEMA} PRAGMA user_version=1; COMMIT;")
        db.execute("INSERT INTO events (time_ns, name, message, volume, set_id) VALUES (1, 'set-created', 'x', '', '')")
    db.close()
    made = Catalogue(path)
    (event,) = made.events()
    assert event.actor == "" and made.aside() == []
    made.add_event("snapshot-deleted", "y", actor="user 0")
    assert made.events()[1].actor == "user 0"
    made.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == code.SCHEMA_VERSION
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(VssError, match="schema version 99"):
        Catalogue(path)


def test_less_room_is_refused_while_copies_are_protected(catalogue: Catalogue) -> None:
    class House:
        pass

    house: Any = House()
    house.catalogue = catalogue
    now = rp.StorageInfo("data", "/s", 10, 90, 0, "protect-copies", 80, 1)
    protected, free = Aside(catalogue, HOUR_MS), Aside(catalogue, 0)
    refuse_shrinking(house, now, 300, 50, "delete-oldest", protected)  # nothing there that could be lost
    store(catalogue, copy())
    for size, policy in ((50, None), (None, "delete-oldest"), (None, "refuse-new")):
        with pytest.raises(VssError, match="made to keep less"):
            refuse_shrinking(house, now, 300, size, policy, protected)
        refuse_shrinking(house, now, 300, size, policy, free)
    bounded = rp.StorageInfo("data", "/s", 10, 90, 100, "delete-oldest", 80, 1)
    with pytest.raises(VssError, match="made to keep less"):
        refuse_shrinking(house, bounded, 300, 99, None, protected)
    refuse_shrinking(house, now, 300, 310, None, protected)  # room for what is there, and all of the volume once more
    for size, policy in ((100, None), (200, None), (0, None), (None, "protect-copies"), (None, None)):
        refuse_shrinking(house, bounded, 300, size, policy, protected)


def test_what_is_refused_says_what_it_would_cost_and_what_to_do(catalogue: Catalogue, clock: list[float]) -> None:
    class House:
        pass

    house: Any = House()
    house.catalogue = catalogue
    aside, gone = Aside(catalogue, HOUR_MS), copy()
    store(catalogue, copy(), gone)
    aside.put(gone)
    clock[0] += 600
    now = rp.StorageInfo("data", "/s", 10 << 20, 0, 0, "delete-oldest", 80, 1)
    with pytest.raises(VssError) as caught:
        refuse_shrinking(house, now, 64 << 20, 1 << 20, None, aside)
    assert "1 shadow copy and 1 deleted copy, which can be taken back for 3000 s more" in caught.value.message
    assert "give at least 74M" in caught.value.message and "deletion_grace_ms" in caught.value.message


def test_who_it_was_is_said_with_what_the_kernel_knows() -> None:
    peer = Peer(7, 0, frozenset((0,)), "/usr/bin/python3")
    assert str(Actor(peer, "vssadmin\n", True, 1000)) == (
        "user 0 (logged in as user 1000), process 7 /usr/bin/python3, which calls itself 'vssadmin?'"
    )
    assert str(Actor(peer, "", True, None)) == "user 0, process 7 /usr/bin/python3"
    assert login_of(os.getpid()) is None or isinstance(login_of(os.getpid()), int)
    assert login_of(2**22 + 1) is None


def test_rules_say_who_may_delete(tmp_path: Path) -> None:
    text = '[[rule]]\nuser = 1000\naccess = "requester"\ndelete = false\n[[rule]]\ngroup = 50\naccess = "both"\n'
    (tmp_path / "a.toml").write_text(text)
    access = Access.load(str(tmp_path))
    assert not access.may_delete(Peer(1, 1000, frozenset((50,)), ""))
    assert access.may_delete(Peer(1, 1001, frozenset((50,)), "")) and access.may_delete(Peer(1, 0, frozenset(), ""))
    (tmp_path / "a.toml").write_text('[[rule]]\nuser = 1000\naccess = "both"\ndelete = "no"\n')
    with pytest.raises(VssError, match="key 'delete' must be true or false"):
        Access.load(str(tmp_path))


def events(host: Any, name: str) -> list[rp.EventRecord]:
    requester = host.requester()
    found = [event for event in requester.call(rp.ListEvents) if event.name == name]
    requester.close()
    return found


def test_a_deleted_copy_comes_back_also_after_a_restart(host: Any, backup: Callable[..., Any]) -> None:
    host.start("--limit", f"deletion_grace_ms={HOUR_MS}")
    host.volume("one")
    record = backup(["one"], context=KEPT).make()
    (made,) = record.snapshots
    r = host.requester()
    result = r.call(rp.DeleteSnapshots, made.snapshot_id)
    assert result.deleted == 1 and result.recoverable_until_ns > made.created_ns
    assert r.call(rp.Query) == [] and r.call(rp.GetSet, record.set_id).snapshots == []
    with pytest.raises(VssError) as caught:
        r.call(rp.DeleteSnapshots, made.snapshot_id)
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND
    (row,) = r.call(rp.ListDeleted, "one")
    assert row.copy.snapshot_id == made.snapshot_id and f"user 0, process {os.getpid()} " in row.actor
    (event,) = events(host, "snapshot-deleted")
    assert "shadowset undelete" in event.message and event.actor == row.actor
    with pytest.raises(VssError, match="can still be taken back"):
        r.call(rp.VolumeRemove, "one", True)
    host.stop()
    host.start()
    r = host.requester()
    host.until(lambda: r.call(rp.VolumeList)[0].state == "online", "the volume")
    assert r.call(rp.ListDeleted)[0].copy.snapshot_id == made.snapshot_id
    back = r.call(rp.UndeleteSnapshot, made.snapshot_id)
    assert back.device_number == made.device_number and r.call(rp.Query) == [back]
    assert any(made.snapshot_id in path.read_text() for path in Path(host.paths.objects).iterdir())
    assert events(host, "snapshot-undeleted")[0].actor
    with pytest.raises(VssError, match="no deleted shadow copy"):
        r.call(rp.UndeleteSnapshot, made.snapshot_id)
    assert not events(host, "snapshot-lost")
    with pytest.raises(VssError, match="deletion is delayed here"):
        r.call(rp.VolumeRemove, "one", True)


def test_auto_release_copies_go_at_once(host: Any, backup: Callable[..., Any]) -> None:
    host.start("--limit", f"deletion_grace_ms={HOUR_MS}")
    host.volume("one")
    run = backup(["one"], context=Context.FILE_SHARE_BACKUP)
    (made,) = run.make().snapshots
    assert host.requester().call(rp.DeleteSnapshots, made.snapshot_id).recoverable_until_ns == 0
    assert host.requester().call(rp.ListDeleted) == []


@pytest.mark.vss(106)
def test_a_requester_without_the_right_to_delete(host: Any, backup: Callable[..., Any]) -> None:
    directory = Path(host.paths.access)
    directory.mkdir(parents=True)
    (directory / "rules.toml").write_text('[[rule]]\nuser = 0\naccess = "both"\ndelete = false\n')
    host.start()
    host.volume("one")
    (made,) = backup(["one"], context=KEPT).make().snapshots
    r = host.requester()
    r.call(rp.KeepSnapshot, made.snapshot_id, None, 2**62)
    for call, arguments in (
        (rp.DeleteSnapshots, (made.snapshot_id,)),
        (rp.KeepSnapshot, (made.snapshot_id, None, 0)),
        (rp.StorageConfigure, ("one", 1 << 20)),
    ):
        with pytest.raises(VssError, match="may not delete shadow copies") as caught:
            r.call(call, *arguments)
        assert caught.value.code == Code.E_ACCESSDENIED
    assert [each.snapshot_id for each in r.call(rp.Query)] == [made.snapshot_id]


def test_whoever_is_turned_away_is_recorded_once(host: Any) -> None:
    directory = Path(host.paths.access)
    directory.mkdir(parents=True)
    (directory / "rules.toml").write_text('[[rule]]\nuser = 0\naccess = "requester"\n')
    host.start()
    for _ in range(3):
        writer = host.writer(writer_id=str(uuid.uuid4()))
        assert isinstance(writer.first, wp.Refused)
    (event,) = events(host, "access-denied")
    assert "may not be a writer" in event.message and f"process {os.getpid()} " in event.message
