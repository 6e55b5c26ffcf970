"""Copies that stand whole in their storages come back when the catalogue is lost, and what was deleted does not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.creation import CreationQueue
from shadowset.daemon.found_copies import FoundCopies
from shadowset.daemon.quiet import Quiet
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import VssError
from shadowset.vss.enums import Attribute, Context, ObjectType, SnapshotState
from shadowset.vss.provider_protocol import CopyInfo

FOUND = Context.NAS_ROLLBACK | Attribute.DIFFERENTIAL | Attribute.IMPORTED


@pytest.fixture
def plain(host: Any) -> Any:
    """Two protected volumes without devices."""
    host.start()
    host.images = {name: host.image(name) for name in ("one", "two")}
    add(host)
    return host


def add(host: Any, *names: str) -> None:
    for name in names or tuple(host.images):
        host.requester().call(rp.VolumeAdd, name, host.images[name], host.storage(name))


def lose_catalogue(host: Any) -> None:
    shutil.rmtree(host.paths.state)


def end_providers(host: Any) -> None:
    """As a host that ends, with the coordinator stopped."""
    for pid in host.own_processes():
        os.kill(pid, signal.SIGKILL)
    host.until(lambda: not host.own_processes(), "the end of the providers")


def copies(host: Any) -> dict[str, Any]:
    return {copy.snapshot_id: copy for copy in host.requester().call(rp.Query)}


def stored(host: Any, volume: str) -> dict[str, Any]:
    with open(f"{host.storage(volume)}/copies.json") as file:
        return {each["copy_id"]: each for each in json.load(file)}


def edit(host: Any, volume: str, copy_id: str, **fields: Any) -> None:
    """While no provider has the storage."""
    rows = stored(host, volume)
    rows[copy_id].update(fields)
    with open(f"{host.storage(volume)}/copies.json", "w") as file:
        json.dump(list(rows.values()), file)


def events(host: Any, name: str) -> list[str]:
    return [event.message for event in host.requester().call(rp.ListEvents) if event.name == name]


def test_copies_are_there_again_when_their_volumes_are(plain: Any, backup: Any) -> None:
    made = backup(["one", "two"], context=Context.CLIENT_ACCESSIBLE).make()
    before = {copy.snapshot_id: copy for copy in made.snapshots}
    plain.stop()
    end_providers(plain)
    lose_catalogue(plain)
    plain.start()
    assert copies(plain) == {}
    add(plain, "one")
    (first,) = copies(plain).values()
    assert first.snapshots_count == 1
    add(plain, "two")
    found = copies(plain)
    assert found.keys() == before.keys()
    for snapshot_id, copy in found.items():
        was = before[snapshot_id]
        assert (copy.snapshot_set_id, copy.created_ns, copy.size, copy.number, copy.original_volume) == (
            was.snapshot_set_id, was.created_ns, was.size, was.number, was.original_volume,
        )  # fmt: skip
        assert copy.attributes == was.attributes | Attribute.IMPORTED and copy.status is SnapshotState.CREATED
        assert copy.snapshots_count == 2 and copy.mount_points == []
        assert copy.device_number > max(each.device_number for each in before.values()), "no number is given twice"
        with open(f"{plain.paths.objects}/{copy.device_number}.json") as file:
            assert json.load(file)["copy_id"] == snapshot_id
    record = plain.requester().call(rp.GetSet, made.set_id)
    assert record.status is SnapshotState.CREATED and len(record.snapshots) == 2
    assert len(events(plain, "snapshot-found")) == 2 and events(plain, "snapshot-lost") == []
    assert plain.requester().call(rp.DeleteSnapshots, made.set_id, ObjectType.SNAPSHOT_SET).deleted == 2
    assert copies(plain) == {} and stored(plain, "one") == stored(plain, "two") == {}
    plain.stop()
    plain.start()
    assert copies(plain) == {}


def test_an_older_catalogue_learns_what_was_made_since(plain: Any, backup: Any) -> None:
    old = backup(["one"], context=Context.NAS_ROLLBACK).make()
    plain.stop()
    shutil.copy(plain.paths.catalogue, f"{plain.base}/backup.db")
    plain.start()
    new = backup(["one"], context=Context.NAS_ROLLBACK).make()
    plain.requester().call(rp.DeleteSnapshots, old.set_id, ObjectType.SNAPSHOT_SET)
    plain.stop()
    shutil.copy(f"{plain.base}/backup.db", plain.paths.catalogue)
    plain.start()
    plain.until(lambda: copies(plain).keys() == {new.snapshots[0].snapshot_id}, "the copies that there are")
    (copy,) = copies(plain).values()
    assert copy.device_number > new.snapshots[0].device_number
    assert old.snapshots[0].snapshot_id in events(plain, "snapshot-lost")[0]


def test_only_whole_and_persistent_copies_come_back(plain: Any, backup: Any) -> None:
    """What is pending was in no set, for all that is known, and what goes with its session has gone with it."""
    whole, pending, released = (backup(["one"], context=Context.NAS_ROLLBACK).make().snapshots[0] for _ in range(3))
    plain.stop()
    end_providers(plain)
    edit(plain, "one", pending.snapshot_id, pending=True)
    edit(plain, "one", released.snapshot_id, persistent=False)
    edit(plain, "one", whole.snapshot_id, attributes=0, priority=7)
    lose_catalogue(plain)
    plain.start()
    add(plain, "one")
    (found,) = copies(plain).values()
    assert {found.snapshot_id} == {whole.snapshot_id} == stored(plain, "one").keys()
    assert found.attributes == FOUND and found.priority == 7, "without attributes it promises as little as can be"
    (deleted,) = events(plain, "snapshot-deleted")
    assert released.snapshot_id in deleted and "session" in deleted


def test_a_deletion_that_waits_for_its_provider_outlives_the_volume(plain: Any, backup: Any) -> None:
    """Removed by force while the provider was away: the copy goes when the storage is there again, under any name."""
    copy = backup(["one"], context=Context.NAS_ROLLBACK).make().snapshots[0]
    plain.faults("one", start=7)
    os.kill(plain.provider_pid("one"), signal.SIGKILL)
    requester = plain.requester()
    plain.until(lambda: requester.call(rp.VolumeList)[0].state != "online", "the provider to be away")
    requester.call(rp.VolumeRemove, "one", True)
    assert copies(plain) == {} and copy.snapshot_id in stored(plain, "one")
    plain.faults("one")
    requester.call(rp.VolumeAdd, "again", plain.images["one"], plain.storage("one"))
    assert copies(plain) == {} == stored(plain, "one")
    assert events(plain, "snapshot-found") == []
    with sqlite3.connect(plain.paths.catalogue) as db:
        assert db.execute("SELECT * FROM snapshots").fetchall() == []


def test_a_duplicate_of_a_storage_is_told_of_and_left_alone(plain: Any, backup: Any) -> None:
    copy = backup(["one"], context=Context.NAS_ROLLBACK).make().snapshots[0]
    shutil.copytree(plain.storage("one"), plain.storage("three"))
    plain.images["three"] = plain.image("three")
    add(plain, "three")
    assert [each.original_volume for each in copies(plain).values()] == ["one"]
    (told,) = events(plain, "snapshot-not-taken-in")
    assert copy.snapshot_id in told and "volume three" in told and "volume one" in told
    assert copy.snapshot_id in stored(plain, "three")


@pytest.mark.parametrize("deleted", [True, False])
def test_a_copy_that_is_just_being_deleted_is_not_found(tmp_path: Path, deleted: bool) -> None:
    """A round was told of the copy before its deletion: what the provider says after that counts."""
    told = [CopyInfo(str(uuid4()), str(uuid4()), 1, 5, True, False, 4096)]
    seen: list[str] = []

    class Provider:
        info = SimpleNamespace(provider_id="p")

        async def copies(self, volume: str) -> list[CopyInfo]:
            return list(told)

        def place(self, number: int) -> str:
            return f"/devices/{number}"

        async def surface(self, copy: Any) -> None:
            seen.append(copy.device_object)

    async def scene(catalogue: Catalogue) -> None:
        house: Any = SimpleNamespace(
            catalogue=catalogue, quiet=Quiet(), creation=CreationQueue(1), providers=SimpleNamespace(builtin=None),
            event_of=lambda name, *_: seen.append(name),
        )  # fmt: skip
        changing = asyncio.Lock()
        provider: Any = Provider()
        async with changing:
            round_under_way = asyncio.ensure_future(FoundCopies(house, changing).take_in(provider, "data"))
            await asyncio.sleep(0)
            if deleted:
                told.clear()
        await round_under_way

    catalogue = Catalogue(str(tmp_path / "catalogue.db"))
    asyncio.run(scene(catalogue))
    assert seen == ([] if deleted else ["snapshot-found", "/devices/1"])
    assert len(catalogue.snapshots()) == (not deleted)
    catalogue.close()


def test_a_damaged_catalogue_is_refused_by_name(plain: Any) -> None:
    plain.stop()
    data = Path(plain.paths.catalogue).read_bytes()
    assert len(data) > 8192 and not os.path.exists(f"{plain.paths.catalogue}-wal")
    Path(plain.paths.catalogue).write_bytes(data[:4096] + os.urandom(len(data) - 4096))
    plain.process = plain.spawn()
    assert plain.process.wait(120) == 1
    plain.process = None
    said = plain.log.read_text().splitlines()[-1]
    assert plain.paths.catalogue in said and "backup" in said and "Traceback" not in plain.log.read_text()
    os.unlink(plain.paths.catalogue)
    plain.start()
    with pytest.raises(VssError):
        plain.requester().call(rp.StorageList, "one")
