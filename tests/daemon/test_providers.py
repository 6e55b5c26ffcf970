"""Providers of installed packages: found, asked in order, several in one set, registered and left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Context, ProviderCapability, ProviderType, SnapshotState

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
sys.path.insert(0, str(EXAMPLES))
from directory_provider import ID, DirectoryProvider  # noqa: E402

pytestmark = pytest.mark.host

HARDWARE_ID = "5a0c0f6e-0c3d-4d2f-8d0b-7f2f6f7e1a22"


class Hardware(DirectoryProvider):
    """The same directories, by a provider that goes first."""

    info = msgspec.structs.replace(
        DirectoryProvider.info, provider_id=HARDWARE_ID, type=ProviderType.HARDWARE, name="Fast directories"
    )


def broken(host: object) -> object:
    raise RuntimeError("no array answers")


@pytest.fixture
def offer(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a package that offers these providers, name=module:attribute."""

    def install(**points: str) -> None:
        information = tmp_path / "outside-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
        lines = [f"{name} = {place}" for name, place in points.items()]
        (information / "entry_points.txt").write_text("\n".join(["[shadowset.providers]", *lines]) + "\n")
        here = str(Path(__file__).parent)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{EXAMPLES}:{here}")

    return install


@pytest.fixture
def folder(host: Any) -> Path:
    made = Path(host.base) / "folder"
    made.mkdir()
    (made / ".copy-me").touch()
    (made / "file").write_text("before")
    return made


def listed(host: Any) -> dict[str, rp.ProviderInfo]:
    return {each.provider_id: each for each in host.requester().call(rp.ListProviders)}


@pytest.mark.vss(120)
def test_volumes_of_two_providers_make_one_set(host: Any, backup: Any, offer: Any, folder: Path) -> None:
    offer(directory="directory_provider:DirectoryProvider")
    host.start()
    one = Path(host.volume("one"))
    (one / "file").write_text("before")
    record = backup([str(one), str(folder)], context=Context.APP_ROLLBACK).prepare().make()
    (one / "file").write_text("after")
    (folder / "file").write_text("after")

    assert [copy.provider_id == ID for copy in record.snapshots] == [False, True]
    mine = record.snapshots[1]
    assert mine.original_volume == f"dir:{folder}" and mine.mount_points == [str(folder)]
    assert Path(mine.device_object, "file").read_text() == "before"
    place = Path(host.requester().call(rp.ExposeSnapshot, mine.snapshot_id))
    assert (place / "file").read_text() == "before"
    with pytest.raises(OSError, match="Read-only"):
        (place / "file").write_text("changed")
    host.requester().call(rp.UnexposeSnapshot, mine.snapshot_id)

    host.stop()
    host.start()
    found = host.requester().call(rp.Query, volume=str(folder))
    assert [copy.snapshot_id for copy in found] == [mine.snapshot_id]
    assert listed(host)[ID].copies == 1
    with pytest.raises(VssError, match="cannot revert") as caught:
        host.requester().call(rp.RevertToSnapshot, mine.snapshot_id)
    assert caught.value.code == Code.VSS_E_NOT_SUPPORTED
    assert host.requester().call(rp.DeleteSnapshots, mine.snapshot_id).deleted == 1
    assert not Path(mine.device_object).exists()
    assert list(folder.parent.glob("state/providers/directory/*")) == []


@pytest.mark.vss(120)
def test_one_failing_provider_voids_the_set_of_the_other(host: Any, backup: Any, offer: Any, folder: Path) -> None:
    offer(directory="directory_provider:DirectoryProvider")
    host.start()
    host.volume("one")
    host.writer("App")
    (folder / "file").unlink()
    run = backup(["one", str(folder)]).prepare()
    host.faults("one", commit={"code": int(Code.VSS_E_INSUFFICIENT_STORAGE)})
    with pytest.raises(VssError) as caught:
        run.make()
    assert caught.value.code == Code.VSS_E_INSUFFICIENT_STORAGE
    assert host.requester().call(rp.Query) == []
    host.until(lambda: not list(folder.parent.glob("state/providers/directory/*")), "the pending copy to go")


def test_two_volumes_that_nobody_can_hold_make_no_set(host: Any, offer: Any, folder: Path) -> None:
    offer(directory="directory_provider:DirectoryProvider")
    host.start()
    other = folder.parent / "other"
    other.mkdir()
    (other / ".copy-me").touch()
    r = host.requester()
    r.call(rp.InitializeForBackup)
    r.call(rp.SetContext, Context.NAS_ROLLBACK)
    r.call(rp.StartSnapshotSet)
    r.call(rp.AddToSnapshotSet, str(folder))
    with pytest.raises(VssError, match="sets of their own") as caught:
        r.call(rp.AddToSnapshotSet, str(other))
    assert caught.value.code == Code.VSS_E_VOLUME_NOT_SUPPORTED


@pytest.mark.vss(120)
def test_hardware_comes_before_software_unless_one_is_named(host: Any, offer: Any, folder: Path) -> None:
    offer(alpha="directory_provider:DirectoryProvider", beta="test_providers:Hardware")
    host.start()
    r = host.requester()
    r.call(rp.InitializeForBackup)
    r.call(rp.SetContext, Context.NAS_ROLLBACK)
    r.call(rp.StartSnapshotSet)
    r.call(rp.AddToSnapshotSet, str(folder))
    assert r.call(rp.DoSnapshotSet).snapshots[0].provider_id == HARDWARE_ID
    r = host.requester()
    r.call(rp.InitializeForBackup)
    r.call(rp.SetContext, Context.NAS_ROLLBACK)
    r.call(rp.StartSnapshotSet)
    r.call(rp.AddToSnapshotSet, str(folder), ID)
    assert r.call(rp.DoSnapshotSet).snapshots[0].provider_id == ID
    assert {each.provider_id: each.copies for each in listed(host).values() if each.copies} == {HARDWARE_ID: 1, ID: 1}


def test_a_protected_volume_stays_with_its_provider(host: Any, backup: Any, offer: Any) -> None:
    offer(directory="directory_provider:DirectoryProvider")
    host.start()
    one = Path(host.volume("one"))
    (one / ".copy-me").touch()
    record = backup([str(one)]).prepare().make()
    assert record.snapshots[0].original_volume == "one" and record.status is SnapshotState.CREATED
    r = host.requester()
    r.call(rp.InitializeForBackup)
    assert r.call(rp.IsVolumeSupported, str(one), ID)
    assert not r.call(rp.IsVolumeSupported, "one", ID)


@pytest.mark.vss(122)
def test_providers_are_registered_listed_and_left_out(host: Any, backup: Any, offer: Any, folder: Path) -> None:
    offer(directory="directory_provider:DirectoryProvider", bad="test_providers:broken", gone="test_providers:nothing")
    host.start()
    r = host.requester()
    told = [event.message for event in r.call(rp.ListEvents) if event.name == "provider-failed"]
    assert len(told) == 2 and "no array answers" in told[0] and "provider gone" in told[1]
    mine = listed(host)[ID]
    assert (mine.type, mine.capabilities) == (ProviderType.SOFTWARE, int(ProviderCapability.COMPLIANT))

    for call, argument, code in (
        (rp.RegisterProvider, "directory", Code.VSS_E_PROVIDER_ALREADY_REGISTERED),
        (rp.RegisterProvider, "unheard-of", Code.VSS_E_OBJECT_NOT_FOUND),
        (rp.RegisterProvider, "bad", Code.VSS_E_UNEXPECTED_PROVIDER_ERROR),
        (rp.UnregisterProvider, HARDWARE_ID, Code.VSS_E_PROVIDER_NOT_REGISTERED),
    ):
        with pytest.raises(VssError) as caught:
            r.call(call, argument)
        assert caught.value.code == code

    record = backup([str(folder)], context=Context.APP_ROLLBACK).prepare().make()
    builtin = next(each for each in listed(host).values() if each.type is ProviderType.SYSTEM)
    for provider_id in (ID, builtin.provider_id):
        with pytest.raises(VssError) as caught:
            r.call(rp.UnregisterProvider, provider_id)
        assert caught.value.code == Code.VSS_E_PROVIDER_IN_USE
    r.call(rp.DeleteSnapshots, record.snapshots[0].snapshot_id)
    r.call(rp.UnregisterProvider, ID)
    host.stop()
    host.start()
    assert ID not in listed(host)
    r = host.requester()
    assert r.call(rp.RegisterProvider, "directory").provider_id == ID
    assert ID in listed(host)
