"""A file system on a volume can be mounted at boot: what systemd makes of the line in /etc/fstab has no cycle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shadowset.requester.volumes.fstab import fstab_line
from shadowset.vss.requester_protocol import VolumeInfo

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = "/lib/systemd/system-generators/systemd-fstab-generator"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    if shutil.which("systemd-analyze") is None or not os.path.exists(GENERATOR):
        pytest.skip("not installed: systemd-analyze with its generators")
    volume = VolumeInfo("my-data", "/dev/vdb", "/s", 1 << 30, 16384, "online", "/dev/nbd0", "nbd", [], 0, 0, "", 1)
    (tmp_path / "fstab").write_text(fstab_line(volume, "/srv/my data", kind="ext4") + "\n")
    made = str(tmp_path)
    environment = {**os.environ, "SYSTEMD_FSTAB": f"{made}/fstab", "SYSTEMD_PROC_CMDLINE": ""}
    subprocess.run([GENERATOR, made, made, made], env=environment, check=True, timeout=60)
    for name in ("shadowsetd.service", "shadowset-attach@.service"):
        text = (ROOT / "systemd" / name).read_text().replace("/opt/shadowset/bin", str(Path(sys.executable).parent))
        (tmp_path / name).write_text(text)
    return tmp_path


def verify(units: Path) -> str:
    names = ["local-fs.target", "srv-my\\x20data.mount", "shadowset-attach@my-data.service"]
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
    ).stderr  # fmt: skip


def test_the_mount_comes_after_its_volume_and_before_local_file_systems(units: Path) -> None:
    mount = (units / "srv-my\\x20data.mount").read_text()
    assert "Requires=shadowset-attach@my-data.service" in mount and "Before=local-fs.target" in mount
    assert "What=/run/shadowset/by-name/my-data" in mount and "Where=/srv/my data" in mount
    complaints = [line for line in verify(units).splitlines() if "shadowset" in line or "srv-" in line]
    assert not complaints, complaints


def test_a_coordinator_after_local_file_systems_would_be_a_cycle(units: Path) -> None:
    unit = units / "shadowsetd.service"
    unit.write_text(unit.read_text().replace("DefaultDependencies=no", "After=local-fs.target"))
    assert "ordering cycle" in verify(units)


@pytest.mark.parametrize(
    "place", [*(ROOT / "systemd").glob("*.service"), *(ROOT / "docs").rglob("*.md")], ids=lambda place: place.name
)
def test_nothing_is_stopped_because_the_coordinator_is_restarted(place: Path) -> None:
    """Systemd stops what requires a unit for each restart of it, and so would unmount a volume's file system."""
    lines = [line for line in place.read_text().splitlines() if line.startswith(("Requires=", "BindsTo=", "PartOf="))]
    assert not [line for line in lines if "shadowsetd.service" in line]
