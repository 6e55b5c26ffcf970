"""What the disks are like, as the tools of each layer tell it, in files that a restore needs before any other."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers.system.rebuild import script

LOG = logging.getLogger("shadowset.writer.system")
COLUMNS = "NAME,PATH,TYPE,SIZE,FSTYPE,LABEL,UUID,PARTUUID,PTTYPE,LOG-SEC,MOUNTPOINTS"
BLKID_FOUND_NOTHING = 2
SINGLE_REPORTS = {
    "volume-groups.json": ["vgs", "--reportformat", "json", "-o", "+vg_uuid"],
    "logical-volumes.json": ["lvs", "--reportformat", "json", "-o", "+lv_uuid"],
    "raid.conf": ["mdadm", "--detail", "--scan"],
    "boot-entries.txt": ["efibootmgr", "--verbose"],
}
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Reports:
    """A directory of files that only root reads, each replaced as a whole."""

    def __init__(self, directory: str, seconds: float) -> None:
        """Errors: VssError when it cannot be made."""
        self.directory, self.seconds = directory, seconds
        self.missing: list[str] = []
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            message = f"the reports' directory {directory} cannot be made ({error.strerror}); set reports to another"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error

    def save(self, name: str, content: bytes | str) -> None:
        """One file. Errors: VssError."""
        data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        temporary = f"{self.directory}/.{name}.new"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
            os.rename(temporary, f"{self.directory}/{name}")
        except OSError as error:
            message = f"{self.directory}/{name} cannot be written ({error.strerror}); make room"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error

    def ask(self, *command: str, quiet: tuple[int, ...] = ()) -> str:
        """What a tool says; one that is not there, or fails with another status than ``quiet``, goes to ``missing``."""
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.seconds, check=False, cwd="/",
                env=ENVIRONMENT,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            self.missing.append(f"{command[0]}: {error}")
            return ""
        if done.returncode and done.returncode not in quiet:
            words = " ".join(done.stderr.decode(errors="replace").split())[-200:]
            self.missing.append(f"{' '.join(command)} ended with status {done.returncode} ({words})")
        return done.stdout.decode(errors="surrogateescape")


def report(reports: Reports, disks: list[str], luks_headers: bool) -> dict[str, Any]:
    """Writes all files; returns what was found, for the backup's metadata. Errors: VssError."""
    text = reports.ask("lsblk", "-J", "-b", "-o", COLUMNS, *disks)
    devices = _devices(text)
    for device in below(devices):
        _probe(reports, device)
    reports.save("devices.json", json.dumps(devices, indent=1))
    tables = {}
    for device in devices:
        if device.get("pttype"):
            tables[device["path"]] = f"{device['name']}.sfdisk"
            reports.save(tables[device["path"]], reports.ask("sfdisk", "--dump", device["path"]))
    kinds = {str(device.get("fstype")) for device in below(devices)}
    wanted = {"LVM2_member": ("volume-groups.json", "logical-volumes.json"), "linux_raid_member": ("raid.conf",)}
    names = [name for kind, names in wanted.items() if kind in kinds for name in names]
    for name in [*names, *(["boot-entries.txt"] if os.path.isdir("/sys/firmware/efi") else [])]:
        reports.save(name, reports.ask(*SINGLE_REPORTS[name]))
    headers = _save_headers(reports, devices) if luks_headers else {}
    reports.save("rebuild.sh", script(devices, tables, headers))
    for problem in reports.missing:
        LOG.warning("the layout is not whole: %s", problem)
    return {
        "disks": [device["path"] for device in devices],
        "file_systems": {d["path"]: d.get("uuid") for d in below(devices) if d.get("fstype") and d.get("uuid")},
        "luks_headers": sorted(headers),
        "missing": reports.missing,
    }


def _devices(text: str) -> list[dict[str, Any]]:
    """The disks, without those that nobody restores: memory, loops that were not asked for."""
    try:
        devices = json.loads(text)["blockdevices"]
    except (ValueError, KeyError):
        return []
    return [each for each in devices if each.get("type") in ("disk", "loop") and not _is_memory(each)]


def _probe(reports: Reports, device: dict[str, Any]) -> None:
    """Looks at what lsblk does not know, which is all where udev does not run."""
    if device.get("fstype") or device.get("pttype"):
        return
    text = reports.ask("blkid", "--probe", "--output", "export", str(device["path"]), quiet=(BLKID_FOUND_NOTHING,))
    found = dict(shlex.split(line)[0].split("=", 1) for line in text.splitlines() if "=" in line)
    for key, tag in (("fstype", "TYPE"), ("uuid", "UUID"), ("label", "LABEL"), ("pttype", "PTTYPE")):
        device[key] = device.get(key) or found.get(tag)


def _is_memory(device: dict[str, Any]) -> bool:
    return str(device["name"]).startswith(("zram", "ram"))


def below(devices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All devices with those on them; one that lies on several comes several times."""
    for device in devices:
        yield device
        yield from below(device.get("children", []))


def _save_headers(reports: Reports, devices: list[dict[str, Any]]) -> dict[str, str]:
    """Headers of encrypted disks by device. They hold the keys: whoever has one and a passphrase has the data."""
    saved = {}
    for device in below(devices):
        if device.get("fstype") == "crypto_LUKS":
            name = f"{device['name']}.luks"
            path = Path(reports.directory) / name
            path.unlink(missing_ok=True)  # cryptsetup writes over nothing
            reports.ask("cryptsetup", "luksHeaderBackup", device["path"], "--header-backup-file", str(path))
            if path.exists():
                path.chmod(0o600)
                saved[device["path"]] = name
    return saved
