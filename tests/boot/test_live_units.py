"""The package on a running Debian: its units start, work under load, come back when killed, and leave again."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.long, pytest.mark.timeout(1800)]

PASSED_OVER = " -o ".join(f"-path {place}" for place in ("/exchange", "/var/log", "/tmp", "/var/tmp", "/var/cache"))
TREE = rf"find / -xdev \( {PASSED_OVER} \) -prune -o -print | sort"
UNITS = "systemctl --root=/ list-unit-files --no-legend --no-pager"
# Writes and syncs numbered blocks until /run/stop is there, then tells how many, and the longest that one took.
LOAD = r"""
import os, time
file = os.open("/srv/data/load", os.O_CREAT | os.O_RDWR)
number, longest = 0, 0.0
while not os.path.exists("/run/stop"):
    began = time.monotonic()
    os.pwrite(file, number.to_bytes(8, "big") * 512, number % 2000 * 4096)
    os.fsync(file)
    longest = max(longest, time.monotonic() - began)
    number += 1
    open("/run/written", "w").write(str(number))
for back in range(min(number, 2000)):
    block = number - 1 - back
    assert os.pread(file, 4096, block % 2000 * 4096) == block.to_bytes(8, "big") * 512, block
print(number, "written and read back, the longest took", round(longest, 2), "s")
"""


def failed(machine: Any) -> str:
    return str(machine.run("systemctl --failed --no-legend --plain"))


def start_load(machine: Any) -> None:
    (machine.exchange / "load.py").write_text(LOAD)
    machine.run("rm -f /run/stop /run/written; setsid python3 /exchange/load.py >/run/load 2>&1 &")
    machine.wait("the first block", "test -s /run/written")


def end_load(machine: Any) -> str:
    machine.run("N=$(cat /run/written); until [ $(cat /run/written) -gt $((N + 20)) ]; do sleep 0.2; done")
    machine.run("touch /run/stop")
    said = str(machine.wait("the end of the load", "sleep 1; grep . /run/load"))
    assert "written and read back" in said, f"{said}\n{machine.journal()[-4000:]}"
    return said


def test_the_package_comes_and_goes(bare: Any) -> None:
    assert bare.boot() == "running"
    tree, units = bare.run(TREE), bare.run(UNITS)
    bare.run("dpkg -i /exchange/shadowset.deb")
    assert bare.run("systemctl is-active shadowsetd; systemctl is-enabled shadowsetd") == "active\nenabled"
    assert not failed(bare)
    assert bare.run("systemctl show -P Type -P NotifyAccess shadowsetd").split() == ["notify", "main"]
    said = bare.run("shadowset doctor", check=False)
    assert re.search(r"\d+ checks found no problems", said), said
    again = bare.run("shadowset setup")
    assert "made  file" not in again and "made  enabled" not in again, again

    bare.run("dpkg --remove shadowset && dpkg --purge shadowset")
    assert not failed(bare)
    assert bare.run("systemctl is-system-running") == "running"
    kept = r"/var/lib/systemd/|/var/lib/dpkg/|/etc/(group|gshadow)-|/var/backups"
    new = set(bare.run(TREE).splitlines()) - set(tree.splitlines())
    assert not [path for path in new if not re.match(kept, path)], sorted(new)
    assert bare.run(UNITS) == units
    left = "pgrep -af '^[^ ]*python.*shadowset'; find /run /dev /sys/fs/cgroup -name '*shadowset*'"
    assert not bare.run(left, check=False)


def test_setup_of_an_installation_by_hand_comes_and_goes(make: Any) -> None:
    machine = make()
    machine.boot()
    machine.run("cp -r /usr/lib/shadowset /opt/ && dpkg --remove shadowset && dpkg --purge shadowset")
    machine.run("sed -i 's,/usr/lib/shadowset,/opt/shadowset,' /opt/shadowset/bin/shadowset*; systemctl daemon-reload")
    tree, units = machine.run(TREE), machine.run(UNITS)
    said = machine.run("/opt/shadowset/bin/shadowset setup")
    assert "made  running unit shadowsetd.service" in said, said
    assert machine.run("systemctl is-active shadowsetd; systemctl is-enabled shadowsetd") == "active\nenabled"
    assert "/opt/shadowset/bin/shadowsetd" in machine.run("systemctl show -P ExecStart shadowsetd")
    assert not failed(machine)
    machine.run("/opt/shadowset/bin/shadowset setup --undo")
    new = set(machine.run(TREE).splitlines()) - set(tree.splitlines())
    assert not [path for path in new if not re.match("/opt/|/var/lib/systemd/|/etc/(group|gshadow)-", path)], new
    assert machine.run(UNITS) == units
    assert not failed(machine)


def test_restart_upgrade_and_kills_under_load(machine: Any, figures: list[str]) -> None:
    machine.run("echo before >/srv/data/file; sync; shadowset create data; echo after >/srv/data/file")
    start_load(machine)
    mounted = machine.run("systemctl show -P ActiveEnterTimestampMonotonic srv-data.mount")
    machine.run("systemctl restart shadowsetd")
    machine.run("dpkg -i /exchange/shadowset.deb")
    pid = machine.run("systemctl show -P MainPID shadowsetd")
    machine.run(f"kill -9 {pid}")
    machine.wait("another coordinator", f"shadowset status && test $(systemctl show -P MainPID shadowsetd) != {pid}")
    provider = machine.run("pgrep -f '[n]bd_provider.main data'")
    machine.run(f"kill -9 {provider}")
    machine.wait("another provider", f"pgrep -f '[n]bd_provider.main data' | grep -v '^{provider}$'")
    figures.append(f"restart, upgrade, kill of coordinator and provider under systemd: {end_load(machine)}")
    assert machine.run("systemctl show -P ActiveEnterTimestampMonotonic srv-data.mount") == mounted
    assert machine.run("systemctl show -P NRestarts shadowsetd") == "1"
    assert not failed(machine)
    machine.run("mkdir /run/copy; mount -o ro,noload /run/shadowset/devices/HarddiskVolumeShadowCopy1 /run/copy")
    assert machine.run("cat /run/copy/file /srv/data/file; umount /run/copy") == "before\nafter"
    said = machine.run("shadowset doctor", check=False)
    assert "problem" not in said.replace("found no problems", ""), said


def test_the_first_client_starts_the_coordinator_and_it_ends_when_idle(machine: Any) -> None:
    machine.run("umount /srv/data; systemctl stop shadowset-attach@data; shadowset volume remove data")
    machine.run("printf '[limit]\\nexit_idle_ms = 2000\\n' >/etc/shadowset/shadowsetd.d/idle.toml")
    machine.run("systemctl disable --now shadowsetd.service; systemctl enable --now shadowsetd.socket")
    assert machine.run("systemctl is-active shadowsetd.service", check=False) == "inactive"
    for _ in range(2):
        assert "data" not in machine.run("shadowset volume list")
        machine.wait("the idle end", "test $(systemctl is-active shadowsetd.service) = inactive")
    assert machine.run("systemctl is-active shadowsetd.socket") == "active"
    assert not failed(machine)


def test_a_coordinator_that_hangs_is_replaced(machine: Any) -> None:
    assert machine.run("systemctl show -P WatchdogUSec shadowsetd") == "3min"
    impatient = r"[Service]\nWatchdogSec=30\nTimeoutAbortSec=2\n"
    drop_in = "/etc/systemd/system/shadowsetd.service.d"
    machine.run(f"mkdir {drop_in}; printf '{impatient}' >{drop_in}/watchdog.conf")
    machine.run("systemctl daemon-reload; systemctl restart shadowsetd")
    pid = machine.run("systemctl show -P MainPID shadowsetd")
    machine.run("sleep 45")
    assert machine.run("systemctl show -P MainPID shadowsetd") == pid, "it gave no sign of life"
    machine.run(f"kill -STOP {pid}")
    machine.wait("another coordinator", f"shadowset status && test $(systemctl show -P MainPID shadowsetd) != {pid}")
    assert "Watchdog timeout" in machine.journal("shadowsetd")
    assert machine.run("findmnt -no SOURCE /srv/data; shadowset volume list").startswith("/dev/nbd")
