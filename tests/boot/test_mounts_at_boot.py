"""File systems on volumes over reboots: mounted in time, unmounted before their server ends, whole after a cut."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.long, pytest.mark.timeout(1800)]

CONSUMER = """[Unit]
RequiresMountsFor=/srv/data
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cat /srv/data/file >/run/consumer'
[Install]
WantedBy=multi-user.target
"""


def fill(machine: Any) -> None:
    """A file, a copy with an earlier version of it, and a unit that reads it at boot."""
    machine.run("echo before >/srv/data/file; sync; shadowset create data; echo after >/srv/data/file; sync")
    machine.run(f"cat >/etc/systemd/system/consumer.service <<'E'\n{CONSUMER}E\nsystemctl -q enable consumer; sync")


def check(machine: Any) -> None:
    """All of it is there, as it was, from the live device."""
    assert machine.run("findmnt -no SOURCE /srv/data").startswith("/dev/nbd"), machine.journal()[-6000:]
    assert machine.run("cat /run/consumer; cat /srv/data/file") == "after\nafter"
    assert machine.run("systemctl is-active shadowset-attach@data srv-data.mount consumer") == "active\nactive\nactive"
    machine.run("mkdir -p /run/copy; mount -o ro,noload /run/shadowset/devices/HarddiskVolumeShadowCopy1 /run/copy")
    assert machine.run("cat /run/copy/file; umount /run/copy") == "before"


def lost(machine: Any) -> list[str]:
    """What the coordinator recorded of losses since it was installed."""
    return [line for line in machine.run("shadowset events").splitlines() if re.search("lost|failed|spoil", line)]


def test_mounted_at_boot_and_unmounted_before_the_provider_ends(machine: Any, figures: list[str]) -> None:
    fill(machine)
    took = []
    for how in ("poweroff", "poweroff"):
        took.append(machine.end(how))
        assert machine.boot() == "running", machine.journal()[-6000:]
        journal = machine.journal(boot=-1)
        assert "unmounting filesystem" in journal and "Failed unmounting srv" not in journal, journal[-6000:]
        assert journal.index("Unmounted srv-data.mount") < journal.rindex("Volume data is detached"), journal[-6000:]
        assert journal.rindex("Volume data is detached") < journal.rindex("Stopped shadowsetd.service")
        assert "recovery complete" not in machine.run("dmesg | grep nbd0"), "it was not unmounted cleanly"
        check(machine)
    assert not lost(machine)
    figures.append(f"shutdown with a volume in /etc/fstab: {took[0]:.1f} and {took[1]:.1f} s, systemd's own included")


def test_a_power_cut(machine: Any) -> None:
    fill(machine)
    machine.run("for n in $(seq 50); do dd if=/dev/urandom of=/srv/data/big$n bs=64k count=4 status=none; done &")
    machine.cut()
    assert machine.boot() == "running", machine.journal()[-6000:]
    check(machine)
    assert not lost(machine)


def test_a_file_system_busy_until_the_end_of_the_host(machine: Any, figures: list[str]) -> None:
    fill(machine)
    holder = "systemd-run -q --unit=holder -p DefaultDependencies=no"  # so that nothing stops it before the last step
    machine.run(f"{holder} sh -c 'exec sleep 30000 <>/srv/data/held'")
    machine.wait("its user", "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /srv/data/held")
    machine.run("dd if=/dev/urandom of=/srv/data/unwritten bs=1M count=20; md5sum /srv/data/unwritten >/root/sum")
    took = machine.end()
    said = machine.console()
    assert machine.boot() == "running", machine.journal()[-6000:]
    lines = [line for line in machine.journal(boot=-1).splitlines() if re.search("srv-data|holder", line)]
    assert "Failed unmounting" in said, "it was not busy, so nothing was tested:\n" + "\n".join(lines)
    assert "recovery complete" not in machine.run("dmesg | grep nbd0"), "it was not unmounted cleanly"
    machine.run("md5sum -c /root/sum")
    check(machine)
    assert not lost(machine)
    figures.append(f"shutdown with a volume that is busy to the end: {took:.1f} s")


def test_attached_but_not_in_fstab(make: Any) -> None:
    machine = make(256 << 20)
    machine.boot()
    machine.run("mkfs.ext4 -q /dev/ubdb; shadowset volume add data /dev/ubdb; shadowset volume attach data")
    machine.run("mkdir /srv/data; mount /dev/shadowset/data /srv/data; echo here >/srv/data/file")
    machine.end()
    assert machine.boot() == "running", machine.journal()[-6000:]
    machine.wait("the device", "mount /dev/shadowset/data /srv/data")
    assert machine.run("cat /srv/data/file") == "here"
    assert "recovery complete" not in machine.run("dmesg | grep nbd0"), "it was not unmounted cleanly"


def test_shadow_storage_on_a_disk_of_its_own(make: Any) -> None:
    machine = make(256 << 20, 256 << 20)
    machine.boot()
    machine.run("mkfs.ext4 -q /dev/ubdc; mkdir /backup; echo '/dev/ubdc /backup ext4 defaults 0 2' >>/etc/fstab")
    machine.run("systemctl daemon-reload; systemctl start backup.mount")
    machine.protect("data", "/dev/ubdb", "/srv/data", "--storage", "/backup/data")
    machine.run("echo before >/srv/data/file; sync; shadowset create data; echo after >/srv/data/file")
    machine.end()
    assert machine.boot() == "running", machine.journal()[-6000:]
    assert machine.run("cat /srv/data/file") == "after"
    assert "recovery complete" not in machine.run("dmesg | grep -E 'nbd0|ubdc'"), "it was not unmounted cleanly"
    machine.run("mkdir -p /run/copy; mount -o ro,noload /run/shadowset/devices/HarddiskVolumeShadowCopy1 /run/copy")
    assert machine.run("cat /run/copy/file") == "before"
    assert not lost(machine)
