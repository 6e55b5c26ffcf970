"""A look at one of libvirt's domains."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from typing import Any

import msgspec

from shadowset.writers.qemu.disks import Disk, locate
from shadowset.writers.qemu.domain_xml import Description
from shadowset.writers.qemu.reach import Seen
from shadowset.writers.qemu.sockets import volume_behind

LOG = logging.getLogger("shadowset.writer.qemu")
IMAGE_SECONDS = 10.0
LAYERED = ("qcow2", "qed")


def seen_of(libvirt: Any, connection: Any, name: str) -> Seen:
    """A domain as it is now. Errors: libvirtError."""
    try:
        domain = connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return Seen("off", gone=True)
        raise

    def pool_path(pool: str, volume: str) -> str:
        try:
            return str(connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
        except libvirt.libvirtError:
            return ""

    state, kept = state_of(libvirt, domain), libvirt.VIR_DOMAIN_XML_INACTIVE
    definition = domain.XMLDesc(kept)
    tells = Description(definition if state == "off" else domain.XMLDesc(0), volume_behind, pool_path)
    disks = [with_backing(disk) for disk in tells.disks()] if state == "off" else tells.disks()
    hidden = domain.XMLDesc(kept | libvirt.VIR_DOMAIN_XML_SECURE) != definition
    return Seen(state, disks, tells.agent(), tells.files(), definition, hidden)


def state_of(libvirt: Any, domain: Any) -> str:
    """In QEMU's words. Errors: libvirtError."""
    if not domain.isActive():
        return "off"
    words = {
        libvirt.VIR_DOMAIN_RUNNING: "running", libvirt.VIR_DOMAIN_BLOCKED: "running",
        libvirt.VIR_DOMAIN_PAUSED: "paused", libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
        libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
    }  # fmt: skip
    return words.get(domain.state()[0], "in no state that libvirt knows")


def with_backing(disk: Disk) -> Disk:
    """A disk of a guest that is off, with the images beneath it, which libvirt tells of running guests alone."""
    program = shutil.which("qemu-img")
    if program is None or disk.kind != "file" or disk.format not in LAYERED:
        return disk
    command = [program, "info", "--backing-chain", "--force-share", "--output=json", "-f", disk.format, disk.place]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=IMAGE_SECONDS, check=True)
        beneath = [str(image["filename"]) for image in json.loads(done.stdout)[1:]]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        LOG.warning("what lies beneath the image %s is not known (%s)", disk.place, error)
        return disk
    located = [locate(name, volume_behind) for name in beneath]
    return msgspec.structs.replace(disk, backing=tuple(place for kind, place in located if kind == "file"))
