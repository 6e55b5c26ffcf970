"""The script that makes the disks anew: partitions, file systems with their own identities, and where they are mounted.

It is a file of the backup, for the hand of somebody who knows which disks may be overwritten: nothing here runs it.
"""

from __future__ import annotations

import shlex
from typing import Any

HEAD = """#!/bin/sh
# Makes partitions and file systems as they were, on other disks or on the same ones. Whatever is on them is lost.
# Usage: rebuild.sh [--mount DIR] DISK=NEW...     for each disk that was: the one that takes its place
# Disks that are not named are left alone. Status 3: something is left to be done by hand, and was said.
set -eu
here=$(dirname "$0")
top=
by_hand=0
if [ "${1:-}" = --mount ]; then top=$2; shift 2; fi
[ $# -gt 0 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }
pairs=" $* "
new_disk() {
    for pair in $pairs; do
        if [ "${pair%%=*}" = "$1" ]; then echo "${pair#*=}"; return; fi
    done
}
partition() {
    case $1 in *[0-9]) echo "$1p$2" ;; *) echo "$1$2" ;; esac
}
by_hand() {
    echo "by hand: $1" >&2
    by_hand=3
}
"""
TAIL = """
if [ -n "$top" ]; then
    for place in dev proc sys run mnt media var/log; do mkdir -p "$top/$place"; done
    for place in tmp var/tmp; do mkdir -p "$top/$place"; chmod 1777 "$top/$place"; done
fi
exit $by_hand
"""
MAKERS = {
    "ext2": "mkfs.ext2 -q -F -U {uuid}", "ext3": "mkfs.ext3 -q -F -U {uuid}", "ext4": "mkfs.ext4 -q -F -U {uuid}",
    "xfs": "mkfs.xfs -q -f -m uuid={uuid}", "btrfs": "mkfs.btrfs -q -f -U {uuid}", "vfat": "mkfs.vfat -i {short}",
    "swap": "mkswap -q -U {uuid}",
}  # fmt: skip


def script(devices: list[dict[str, Any]], tables: dict[str, str], headers: dict[str, str]) -> str:
    """The text. ``devices`` is lsblk's tree, ``tables`` and ``headers`` are file names beside the script by device."""
    lines: list[str] = []
    mounts: list[tuple[str, list[str]]] = []
    for device in devices:
        inside = _disk_lines(device, tables, headers, mounts)
        if inside:
            lines.append(f"disk=$(new_disk {shlex.quote(device['path'])})")
            lines.append('if [ -n "$disk" ]; then')
            lines += [f"    {line}" for line in inside]
            lines.append("fi")
    for place, made in sorted(mounts):
        lines += made
        lines.append(
            f'if [ -n "$top" ] && [ -n "$disk" ]; then mkdir -p "$top"{place}; mount "$device" "$top"{place}; fi'
        )
    return HEAD + "\n".join(lines) + TAIL


def _disk_lines(
    disk: dict[str, Any], tables: dict[str, str], headers: dict[str, str], mounts: list[tuple[str, list[str]]]
) -> list[str]:
    lines = []
    if disk["path"] in tables:
        lines.append(f'sfdisk --quiet --wipe always "$disk" <"$here/"{shlex.quote(tables[disk["path"]])}')
        lines.append("udevadm settle 2>/dev/null || sleep 1")
    find = f"disk=$(new_disk {shlex.quote(disk['path'])})"
    for device, place in [(disk, "device=$disk"), *_partitions(disk)]:
        made = _content(device, headers)
        if made:
            lines += [place, *made]
        for point in device.get("mountpoints") or []:
            if point and point.startswith("/") and made:
                mounts.append((shlex.quote(point), [find, place]))
    return lines


def _partitions(disk: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    found = []
    for child in disk.get("children", []):
        if child.get("type") == "part":
            number = str(child["path"]).removeprefix(str(disk["path"])).removeprefix("p")
            found.append((child, f'device=$(partition "$disk" {shlex.quote(number)})'))
    return found


def _content(device: dict[str, Any], headers: dict[str, str]) -> list[str]:
    """How what is on a device is made again."""
    kind, uuid = device.get("fstype"), str(device.get("uuid") or "")
    if not kind:
        return []
    if kind in MAKERS and uuid:
        command = MAKERS[kind].format(uuid=shlex.quote(uuid), short=shlex.quote(uuid.replace("-", "")))
        label = f" {'-n' if kind == 'vfat' else '-L'} {shlex.quote(device['label'])}" if device.get("label") else ""
        return [f'{command}{label} "$device"']
    if kind == "crypto_LUKS" and device["path"] in headers:
        header = shlex.quote(headers[device["path"]])
        return [
            f'cryptsetup luksHeaderRestore --batch-mode "$device" --header-backup-file "$here/"{header}',
            'by_hand "open $device with its passphrase, and make what is inside"',
        ]
    return [f'by_hand "what was on {device["path"]} ($device now) was {kind}: see the reports beside this script"']
