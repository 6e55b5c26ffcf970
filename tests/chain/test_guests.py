"""A real guest on protected volumes: backed up while it writes, destroyed, restored, started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from libvirt_host import LibvirtGuest, LibvirtHost, lacking
from load import Load
from qemu_guest import Guest, count_in, make_data_disk, missing, unpack
from rounds import keep, row, table


@pytest.fixture
def make_guest(chain: Any, wait_until: Any) -> Iterator[Callable[..., Guest]]:
    if lacking := missing():
        pytest.skip(f"not installed: {lacking}")
    runtime = tempfile.mkdtemp(prefix="ss-vm-", dir="/tmp")
    made: list[Guest] = []

    def make(disk: str) -> Guest:
        guest = Guest(*unpack(Path(chain.directory)), runtime, [disk])
        made.append(guest)
        guest.start()
        guest.wait_for_writes()
        config = f"{chain.directory}/qemu.toml"
        Path(config).write_text(
            f'[[guest]]\nname = "web"\nqmp = "{guest.qmp}"\nagent = "{guest.agent}"\nseconds = 30.0\n'
        )
        chain.module("shadowset.writers.qemu.main", "--config", config)
        wait_until("the writer", lambda: [entry for entry in chain.cli("writers") if entry["connected"]])
        return guest

    yield make
    for guest in made:
        guest.end()
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_guest_comes_back_as_it_was_at_the_cut(
    chain: Any, make_guest: Callable[..., Guest], show: Callable[[str], None]
) -> None:
    chain.add_volumes((("images", "ext4", 160 << 20),))
    plain, image = f"{chain.directory}/plain.img", f"{chain.places['images']}/disk.qcow2"
    make_data_disk(plain)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", plain, image], check=True, timeout=60)
    guest = make_guest(f"file={image},format=qcow2")
    load = Load("the guest", lambda _number: guest.wait_for_writes(1), [])
    record = chain.cli("create", "images")
    before = guest.wait_for_writes()
    done = chain.cli("backup", f"{chain.directory}/backup")
    assert [(entry["succeeded"], entry.get("reason", "")) for entry in done["components"]] == [(True, "")]
    after = guest.wait_for_writes()
    load.stop()
    guest.end()
    os.truncate(image, 4096)

    restored = chain.cli("restore", f"{chain.directory}/backup")
    assert restored["succeeded"], restored
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, plain], check=True, timeout=60)
    count = count_in(plain)
    assert before <= count <= after
    guest.start()
    guest.wait_for_writes()
    rows = [row(record, done, ["QEMU Writer"], "QEMU guest", load.longest, count)]
    show(table(rows))
    keep("3-guest", rows)


@pytest.fixture
def host(chain: Any) -> Iterator[LibvirtHost]:
    if reason := missing() or lacking():
        pytest.skip(f"not installed: {reason}")
    runtime = tempfile.mkdtemp(prefix="ss-lv-", dir="/tmp")
    made = LibvirtHost(Path(chain.directory) / "libvirt", runtime)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(runtime)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_guest_under_libvirt_comes_back_with_its_definition(chain: Any, host: LibvirtHost, wait_until: Any) -> None:
    chain.add_volumes((("images", "ext4", 160 << 20),))
    host.start()  # it sees what is mounted by now
    base, image = f"{chain.directory}/plain.img", f"{chain.places['images']}/disk.qcow2"
    make_data_disk(base)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", base, image], check=True, timeout=60)
    runtime = os.path.dirname(host.uri.partition("=")[2])
    guest = LibvirtGuest(host, *unpack(Path(chain.directory)), runtime, image, "qcow2")
    guest.define()
    guest.start()
    guest.wait_for_writes()
    guest.wait_for_agent()
    config = f"{chain.directory}/qemu.toml"
    Path(config).write_text(f'[[guest]]\nname = "web"\nlibvirt = "{host.uri}"\nseconds = 30.0\n')
    chain.module("shadowset.writers.qemu.main", "--config", config)
    wait_until("the writer", lambda: [entry for entry in chain.cli("writers") if entry["connected"]])

    before = guest.wait_for_writes()
    done = chain.cli("backup", f"{chain.directory}/backup")
    assert [(entry["succeeded"], entry.get("reason", "")) for entry in done["components"]] == [(True, "")]
    after = guest.wait_for_writes()
    with pytest.raises(AssertionError, match="the guest web is on"):
        chain.cli("restore", f"{chain.directory}/backup")
    uuid = guest.domain().UUIDString()
    guest.end()
    guest.domain().undefine()
    os.truncate(image, 4096)

    restored = chain.cli("restore", f"{chain.directory}/backup")
    assert restored["succeeded"], restored
    assert guest.domain().UUIDString() == uuid
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, base], check=True, timeout=60)
    assert before <= count_in(base) <= after
    guest.start()
    guest.wait_for_writes()
    guest.end()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_volume_is_the_disk_of_a_guest(chain: Any, make_guest: Callable[..., Guest]) -> None:
    raw = f"{chain.directory}/raw.img"
    make_data_disk(raw)
    chain.cli("volume", "add", "raw", raw)
    try:
        guest = make_guest(f"file=nbd+unix:///?socket={chain.paths.nbd_socket('raw')},format=raw")
        before = guest.wait_for_writes()
        copy = chain.cli("create", "raw")
        after = guest.wait_for_writes()
        device = copy["snapshots"][0]["device_object"]
        assert before <= count_in(device) <= after
        plain = chain.cli("create", "raw", "--no-writers")
        with pytest.raises(AssertionError, match="needs_recovery"):
            count_in(plain["snapshots"][0]["device_object"])
        guest.end()
    finally:
        chain.raw("volume", "remove", "raw", "--force")
