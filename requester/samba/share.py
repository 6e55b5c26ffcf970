"""What a Samba share needs so that its clients see previous versions, as a stanza of smb.conf."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass

from shadowset.requester.backup.mounts import VolumeMap, is_below
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.previous_versions import NAME_FORMAT
from shadowset.vss.requester_protocol import VolumeInfo

NAME = re.compile(r"[^\x00-\x1f\"/\\\[\]:|<>+=;,*?]{1,80}")
TESTPARM_SECONDS = 30


@dataclass(frozen=True)
class SharePlace:
    """A directory that is to be shared, the volume that it lies on, and the volume's mount point above it."""

    path: str
    volume: str
    mount_point: str

    @property
    def relative(self) -> str:
        """The directory as seen from the volume's mount point."""
        return os.path.relpath(self.path, self.mount_point)


def place_of(path: str, volumes: list[VolumeInfo], volume_map: VolumeMap) -> SharePlace:
    """Errors: VSS_E_OBJECT_NOT_FOUND when the directory is none, or lies on no protected volume."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{path} is no directory; make it, or name another")
    place = volume_map.locate(real)
    if place is None:
        message = f"{path} lies on no protected volume, so it has no shadow copies; move it, or protect its volume"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
    points = next(volume.mount_points for volume in volumes if volume.name == place.volume)
    above = max((point for point in points if is_below(real, point)), key=len)
    return SharePlace(real, place.volume, above)


def parameters(place: SharePlace, paths: Paths, fsrvp: bool = False) -> dict[str, str]:
    """The parameters of the share, by Samba's names."""
    objects = ["shadow_copy2", *(["shell_snap"] if fsrvp else [])]
    found = {
        "path": place.path,
        "vfs objects": " ".join(objects),
        "shadow:snapdir": f"{paths.previous}/{place.volume}",
        "shadow:basedir": place.mount_point,
        "shadow:format": NAME_FORMAT,
        "shadow:sort": "desc",
        "shadow:localtime": "no",
    }
    for word in ("check path", "create", "delete") if fsrvp else ():
        found[f"shell_snap:{word} command"] = f"{fsrvp_command()} {word.split()[0]}"
    return found


def fsrvp_command() -> str:
    """By its whole path, since Samba looks nowhere: beside this program."""
    return os.path.join(os.path.dirname(sys.executable), "shadowset-samba-fsrvp")


def stanza(share: str, wanted: dict[str, str]) -> str:
    """The section of smb.conf. Errors: E_INVALIDARG for a name that no share can have."""
    if not NAME.fullmatch(share):
        raise VssError(Code.E_INVALIDARG, f"{share!r} cannot be the name of a share; choose another")
    lines = [f"[{share}]", *(f"    {name} = {value}" for name, value in wanted.items())]
    return "\n".join(lines)


def configured(share: str, smb_conf: str) -> dict[str, str]:
    """The parameters that Samba's own parser finds for a share.

    Errors: VSS_E_OBJECT_NOT_FOUND for a share that is not there; E_INVALIDARG for a file that Samba does not take.
    """
    command = ["testparm", "-s", "--section-name", share, *([smb_conf] if smb_conf else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TESTPARM_SECONDS, check=False)
    except FileNotFoundError as error:
        raise VssError(Code.VSS_E_NOT_SUPPORTED, "testparm is not there; install Samba's samba-common-bin") from error
    except subprocess.TimeoutExpired as error:
        raise VssError(Code.E_UNEXPECTED, "testparm does not end; look at Samba's configuration") from error
    found = {}
    for line in done.stdout.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            found[name.strip().lower()] = value.strip()
    if done.returncode or not found:
        where = smb_conf or "its configuration"
        message = f"Samba has no share {share} in {where}; put there what 'shadowset samba config' prints"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
    return found


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """What in a share keeps its clients from the right versions, in sentences."""
    problems = []
    for name, value in wanted.items():
        present = found.get(name, "")
        if name == "vfs objects":
            missing = [word for word in value.split() if word not in present.split()]
            problems += [f"{name} lacks {word}; add it" for word in missing]
        elif name == "path":
            continue  # the share may be any directory of the volume
        elif present.rstrip("/") != value:
            problems.append(f"{name} is {present or 'not set'}; set it to {value}")
    return problems
