"""Auto-release copies that are read when their session ends: they stay until then, and then they go."""

from __future__ import annotations

import os
from typing import Any

import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss.enums import Context

pytestmark = pytest.mark.host


def names(host: Any) -> list[str]:
    return [event.name for event in host.requester().call(rp.ListEvents)]


@pytest.fixture
def made(host: Any, backup: Any) -> tuple[Any, Any]:
    """A session that has made a copy of a volume, and the copy."""
    host.start("--limit", "release_wait_ms=300000")
    place = host.volume("one")
    with open(f"{place}/file", "wb") as file:
        file.write(b"kept" * 1000)
    run = backup(["one"], context=Context.FILE_SHARE_BACKUP)
    return run, run.make().snapshots[0]


@pytest.mark.vss(107)
@pytest.mark.parametrize("how", ["device object", "mount"])
def test_a_copy_goes_when_its_last_reader_is_done(host: Any, made: Any, how: str) -> None:
    run, copy = made
    host.until(lambda: os.path.exists(copy.device_object), "the device object")
    path = copy.device_object
    if how == "mount":
        path = run.requester.call(rp.ExposeSnapshot, copy.snapshot_id) + "/file"
    readers = [os.open(path, os.O_RDONLY) for _ in range(2)]
    run.requester.close()
    host.until(lambda: "release-delayed" in names(host), "the delay to be told")
    for reader in readers:
        assert [each.snapshot_id for each in host.requester().call(rp.Query)] == [copy.snapshot_id]
        assert len(os.pread(reader, 4000, 0)) == 4000
        os.close(reader)
    host.until(lambda: not host.requester().call(rp.Query), "the copy to go")
    assert "snapshot-deleted" in names(host) and "release-forced" not in names(host)
    host.until(
        lambda: not [each for each in os.listdir(host.storage("one")) if each.endswith(".img")], "its data to go"
    )


@pytest.mark.vss(107)
def test_a_reader_that_never_ends_is_not_waited_for_for_ever(host: Any, made: Any, backup: Any) -> None:
    run, _ = made
    run.requester.close()
    host.until(lambda: not host.requester().call(rp.Query), "a copy without readers to go")
    host.stop()
    host.start("--limit", "release_wait_ms=100")
    run = backup(["one"], context=Context.FILE_SHARE_BACKUP)
    (copy,) = run.make().snapshots
    host.until(lambda: os.path.exists(copy.device_object), "the device object")
    reader = os.open(copy.device_object, os.O_RDONLY)
    try:
        run.requester.close()
        host.until(lambda: not host.requester().call(rp.Query), "the copy to go all the same")
        assert "release-forced" in names(host)
    finally:
        os.close(reader)
