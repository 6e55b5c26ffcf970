"""Which files of a system belong to which component; no file belongs to two.

What is bound to the machine (disks, boot loader, kernels and their modules, the machine's own identity) is the layout
writer's. So a restore that leaves that writer out puts a system onto another machine, whose own disks stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

FileSets = list[tuple[str, str, bool]]

ACCOUNTS = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
BOUND = ("fstab", "crypttab", "machine-id", "mdadm", "lvm", "mtab", "mdadm.conf", "kernel", "kernel-img.conf")
UNITS = (
    "systemd", "init.d", "cron.d", "cron.daily", "cron.hourly", "cron.monthly", "cron.weekly", "crontab",
    "rc0.d", "rc1.d", "rc2.d", "rc3.d", "rc4.d", "rc5.d", "rc6.d", "rcS.d",
)  # fmt: skip
BOUND_BELOW = ("/etc/initramfs-tools/conf.d", "/etc/udev/rules.d", "/etc/default/grub.d")
PACKAGES = ("/var/lib/dpkg", "/var/lib/apt/extended_states", "/var/lib/rpm", "/usr/lib/sysimage/rpm")
DIRECTORY = (
    "/var/lib/samba", "/etc/samba", "/var/lib/ldap", "/var/lib/openldap", "/etc/ldap", "/etc/openldap", "/etc/dirsrv",
    "/var/lib/dirsrv",
)  # fmt: skip
DIRECTORY_SIGNS = ("/var/lib/samba/private/sam.ldb", "/var/lib/ldap", "/var/lib/openldap", "/var/lib/dirsrv")
TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/rpm/.rpm.lock", "/etc/.pwd.lock")


@dataclass
class Parts:
    """File sets by component, of the system's state and of its layout, and what is left out, as paths of the system."""

    state: dict[str, FileSets] = field(default_factory=dict)
    layout: dict[str, FileSets] = field(default_factory=dict)
    excluded: list[str] = field(default_factory=list)


def parts_of(root: str, not_state: tuple[str, ...]) -> Parts:
    """The components of a tree; those without a file are not there. Paths are those of the system itself."""
    tree = Tree(root)
    directory = [path for path in DIRECTORY if tree.exists(path)] if any(map(tree.exists, DIRECTORY_SIGNS)) else []
    parts = Parts()
    parts.state = {
        "packages": tree.sets(PACKAGES),
        "accounts": [("/etc", name, False) for name in ACCOUNTS if tree.exists(f"/etc/{name}")],
        "units": tree.sets([f"/etc/{name}" for name in UNITS])
        + tree.sets(["/var/lib/systemd", "/var/spool/cron", "/var/spool/at", "/usr/local/lib/systemd"]),
        "configuration": tree.below("/etc", {*ACCOUNTS, *BOUND, *UNITS} | _names("/etc", directory)),
        "directory service": tree.sets(directory),
        "software": tree.sets(f"/{name}" for name in TOP) + tree.sets(["/usr", "/opt"]),
        "state": tree.below(
            "/var/lib", {"dpkg", "rpm", "systemd", "apt", *not_state} | _names("/var/lib", directory)
        ) + tree.below("/var", {"lib", "cache", "tmp", "log", "run", "lock", "spool"}),
    }  # fmt: skip
    parts.layout = {
        "boot": tree.sets(["/boot", "/efi", *_modules(tree)]),
        "machine": tree.sets([f"/etc/{name}" for name in BOUND] + list(BOUND_BELOW)),
    }
    parts.state = {name: files for name, files in parts.state.items() if files}
    parts.layout = {name: files for name, files in parts.layout.items() if files}
    parts.excluded = [*BOUND_BELOW, *_modules(tree), "/usr/local/lib/systemd", "/usr/lib/sysimage/rpm"]
    return parts


def _names(parent: str, paths: list[str]) -> set[str]:
    return {os.path.basename(path) for path in paths if os.path.dirname(path) == parent}


def _modules(tree: Tree) -> list[str]:
    """Where kernels' modules really are: /lib is a link to /usr/lib on most systems."""
    return [path for path in ("/usr/lib/modules", "/lib/modules") if tree.exists(path) and not tree.through_link(path)]


class Tree:
    """A system's files below a directory."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def exists(self, path: str) -> bool:
        """Whether there is something, even a link that leads nowhere."""
        return os.path.lexists(self.root + path)

    def through_link(self, path: str) -> bool:
        """Whether a directory above it is a link."""
        return os.path.islink(self.root + os.path.dirname(path))

    def sets(self, paths: Iterable[str]) -> FileSets:
        """Directories with all that is beneath, and single files and links."""
        found: FileSets = []
        for path in paths:
            if os.path.isdir(self.root + path) and not os.path.islink(self.root + path):
                found.append((path, "*", True))
            elif self.exists(path):
                found.append((os.path.dirname(path), os.path.basename(path), False))
        return found

    def below(self, path: str, without: set[str]) -> FileSets:
        """All in a directory but these names."""
        try:
            names = sorted(os.listdir(self.root + path))
        except OSError:
            return []
        return self.sets(f"{path}/{name}" for name in names if name not in without)


def homes(root: str, places: Iterable[str]) -> list[str]:
    """The home directories below ``places``, as paths of the system."""
    tree = Tree(root)
    return [path for place in places for path, _, recursive in tree.below(place, {"lost+found"}) if recursive]
