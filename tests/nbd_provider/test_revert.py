"""A volume goes back to a shadow copy: over the control socket, by command, and what others see meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider.store import revert
from shadowset.nbd_provider.volume import Volume
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code

MIB = 1 << 20


def three_copies(provider: Any, nbd_module: Any, persistent: bool = False) -> dict[str, bytes]:
    """Copies with writes between them, and what each must hold."""
    client, control = nbd_module.NBD(), provider.control()
    client.connect_uri(provider.uri)
    copies = {}
    for number in range(3):
        copies[control.snapshot(persistent)] = Path(provider.origin).read_bytes()
        client.pwrite(os.urandom(3 * MIB), number * 2 * MIB)
    client.shutdown()
    control.close()
    return copies


def wait_until_done(control: Any) -> None:
    deadline = time.monotonic() + 60
    while (under_way := control.value(m.Describe)["revert"]) is not None:
        assert under_way["phase"] != "stopped", under_way
        assert time.monotonic() < deadline, under_way
        time.sleep(0.02)


def test_back_and_forth(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    """Any copy, older or newer, again and again: all copies stay exact, and the revert itself can be undone."""
    copies = three_copies(provider, nbd_module)
    control = provider.control()
    latest = control.snapshot()
    copies[latest] = Path(provider.origin).read_bytes()
    for target in [*list(copies)[1::-1], latest, *copies]:
        answer = control.value(m.Revert, copy_id=target)
        assert answer["copy_id"] == target
        wait_until_done(control)
        assert Path(provider.origin).read_bytes() == copies[target]
        for copy, expected in copies.items():
            assert provider.content(copy) == expected
    events = [event["event"] for event in control.value(m.ListEvents)["events"]]
    assert events == ["revert-started", "revert-finished"] * 7
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    assert client.pread(MIB, 0) == copies[latest][:MIB]


def test_refused_while_somebody_uses_the_volume(provider: Any, nbd_module: Any) -> None:
    copies = three_copies(provider, nbd_module)
    control, client = provider.control(), nbd_module.NBD()
    target = next(iter(copies))
    client.connect_uri(provider.uri)
    answer = control.call(m.Revert, copy_id=target)
    assert answer.code == Code.VSS_E_VOLUME_IN_USE and "1 clients" in answer.message
    client.shutdown()
    control.value(m.Hold)
    answer = control.call(m.Revert, copy_id=target)
    assert answer.code == Code.VSS_E_BAD_STATE
    control.value(m.Release)
    assert control.call(m.Revert, copy_id=str(uuid4())).code == Code.VSS_E_OBJECT_NOT_FOUND
    assert control.call(m.CancelRevert).code == Code.VSS_E_BAD_STATE
    assert control.value(m.Describe)["revert"] is None


def damage(provider: Any, control: Any) -> None:
    """Spoil all data of the first segment."""
    control.value(m.Describe)
    with open(f"{provider.storage}/segments/00000000", "r+b") as file:
        file.seek((1 << 20) * 32)
        size = os.fstat(file.fileno()).st_size - (1 << 20) * 32
        file.write(bytes(size))


def test_a_stopped_revert_keeps_the_volume_closed(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    """Here damaged storage stops it. It says why, also after a restart; force opens the volume as it is."""
    target = next(iter(three_copies(provider, nbd_module, persistent=True)))
    control = provider.control()
    damage(provider, control)
    control.value(m.Revert, copy_id=target)
    for _ in range(2):
        deadline = time.monotonic() + 30
        while (state := control.value(m.Describe)["revert"])["phase"] != "stopped":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "damaged" in state["reason"]
        with pytest.raises(nbd_module.Error):
            nbd_module.NBD().connect_uri(provider.uri)
        client = nbd_module.NBD()
        client.set_opt_mode(True)
        client.connect_unix(provider.nbd)
        client.set_export_name("vol")
        with pytest.raises(nbd_module.Error, match=r"policy|info"):
            client.opt_info()
        assert control.call(m.Hold).code == Code.VSS_E_REVERT_IN_PROGRESS
        assert control.call(m.Delete, copy_id=target).code == Code.VSS_E_REVERT_IN_PROGRESS
        provider.kill()
        provider.start()
        control = provider.control()
    assert control.call(m.CancelRevert).code == Code.VSS_E_REVERT_IN_PROGRESS
    control.value(m.CancelRevert, force=True)
    nbd_module.NBD().connect_uri(provider.uri)
    control.value(m.Delete, copy_id=target)


def test_no_room_for_newer_copies_is_said_before_the_first_byte(
    provider: Any, nbd_module: Any, random_image: bytes
) -> None:
    copies = three_copies(provider, nbd_module)
    control = provider.control()
    before = Path(provider.origin).read_bytes()
    used = control.value(m.Describe)["storage_used"]
    control.value(m.Configure, max_size=used + MIB)
    first, _, last = copies
    answer = control.call(m.Revert, copy_id=first)
    assert answer.code == Code.VSS_E_INSUFFICIENT_STORAGE and "delete newer copies" in answer.message
    assert Path(provider.origin).read_bytes() == before and len(control.value(m.Describe)["copies"]) == 3
    control.value(m.Revert, copy_id=last)  # the newest copy needs no room at all
    wait_until_done(control)
    assert Path(provider.origin).read_bytes() == copies[last]


def test_the_command(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    copies = three_copies(provider, nbd_module)
    target, expected = next(iter(copies.items()))
    command = [sys.executable, "-m", "shadowset.nbd_provider.main", "revert", provider.storage, "--origin"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)

    busy = run(provider.origin, "--copy", target)
    assert busy.returncode == 1 and "in use" in busy.stderr and busy.stderr.count("\n") == 1
    assert provider.stop() == 0
    nothing = run(provider.origin)
    assert nothing.returncode == 1 and "--copy" in nothing.stderr
    done = run(provider.origin, "--copy", target, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["copy_id"] == target and "of" in done.stderr
    assert Path(provider.origin).read_bytes() == expected
    for copy, value in copies.items():
        assert provider.content(copy) == value
    provider.start()


@pytest.mark.parametrize("by_command", [False, True])
def test_half_a_revert_goes_on(
    provider: Any, nbd_module: Any, random_image: bytes, monkeypatch: pytest.MonkeyPatch, by_command: bool
) -> None:
    """The volume closes amid a revert; the provider's next start, or the command without a copy, finishes it."""
    copies = three_copies(provider, nbd_module)
    target, expected = next(iter(copies.items()))
    assert provider.stop() == 0
    monkeypatch.setattr(revert, "STEP_BYTES", MIB)
    volume = Volume("vol", provider.origin, provider.storage)
    progress = volume.reverter.begin(UUID(target))
    for _ in volume.reverter.work() or ():
        if progress.done >= 2 * MIB:
            break
    volume.close()
    assert random_image != Path(provider.origin).read_bytes() != expected
    if by_command:
        command = [sys.executable, "-m", "shadowset.nbd_provider.main", "revert", provider.storage]
        subprocess.run([*command, "--origin", provider.origin], timeout=60, check=True)
        assert Path(provider.origin).read_bytes() == expected
    provider.start()
    wait_until_done(provider.control())
    assert Path(provider.origin).read_bytes() == expected
    for copy, value in copies.items():
        assert provider.content(copy) == value


def test_a_copy_from_before_the_volume_grew(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    """The copy's bytes come back; what lies beyond its end stays as it is."""
    copies = three_copies(provider, nbd_module)
    target, expected = next(iter(copies.items()))
    assert provider.stop() == 0
    more = os.urandom(5000 // 512 * 512)
    with open(provider.origin, "ab") as file:
        file.write(more)
    provider.start()
    control = provider.control()
    control.value(m.Revert, copy_id=target)
    wait_until_done(control)
    assert Path(provider.origin).read_bytes() == expected + more
    assert provider.content(target) == expected
