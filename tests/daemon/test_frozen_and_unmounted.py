"""A file system that is unmounted while it is frozen stays frozen, without a place where anybody could thaw it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import VssError
from shadowset.vss.enums import Context

pytestmark = pytest.mark.host


@pytest.fixture
def frozen(host: Any, backup: Any) -> Any:
    """Two volumes, ext4 and XFS, whose file systems are frozen for a set that does not go on."""
    host.start("--limit", "frozen_ms=3000", "--limit", "hold_ms=2000")
    places = host.volume("one", "ext4"), host.volume("two", "xfs")
    mark = f"{host.base}/held"
    host.faults("two", hold={"delay": 30, "mark": mark})
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    seq = run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    assert all(map(host.is_frozen, places))
    return places, lambda: run.requester.result(seq, rp.DoSnapshotSet)


def mount_again(host: Any, places: tuple[str, str]) -> None:
    for device, place in zip(host.loops, places, strict=True):
        subprocess.run(["mount", device, place], check=True)
        assert not host.is_frozen(place)
        with open(f"{place}/probe", "wb") as file:
            file.write(b"x")


def test_the_next_coordinator_thaws_it(host: Any, frozen: Any) -> None:
    host.process.send_signal(signal.SIGSTOP)
    for pid in host.guardians():
        os.kill(pid, signal.SIGKILL)
    host.kill()
    places, _ = frozen
    for place in places:  # the dead may take a moment to let go of it
        host.until(lambda place=place: subprocess.run(["umount", place], check=False).returncode == 0, "umount")
    host.faults("two")
    host.start()
    told = [event for event in host.requester().call(rp.ListEvents) if event.name == "thawed-leftover"]
    assert len(told) == 2 and all("was unmounted from" in event.message for event in told), told
    mount_again(host, places)


def test_its_own_coordinator_thaws_it(host: Any, frozen: Any) -> None:
    """Lazily unmounted, for somebody holds it: us."""
    places, result = frozen
    for place in places:
        subprocess.run(["umount", "--lazy", place], check=True)
    with pytest.raises(VssError):
        result()
    mount_again(host, places)
