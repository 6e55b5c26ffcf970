"""The writers' configuration: which tree, and what of it."""

from __future__ import annotations

import os

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.server_settings import WriterSettings

OTHER_WRITERS = (
    "containerd", "containers", "docker", "groonga", "libvirt", "lxc", "machines", "mariadb", "mysql", "postgresql",
    "redis", "shadowset",
)  # fmt: skip


class Settings(WriterSettings, kw_only=True):
    """The whole file. ``root`` is the system's tree; ``read_live`` is for one that lies on no protected volume.

    ``not_state`` are directories of /var/lib that are left to other writers. ``luks_headers`` saves the headers of
    encrypted disks, which hold their keys. ``disks`` are those whose layout is told; all when it is empty.
    """

    root: str = "/"
    read_live: bool = False
    homes: tuple[str, ...] = ("/home",)
    not_in_homes: tuple[str, ...] = (".cache", ".local/share/Trash")
    not_state: tuple[str, ...] = OTHER_WRITERS
    luks_headers: bool = False
    disks: list[str] = []
    reports: str = "/var/lib/shadowset/system-state"
    command_seconds: int = 60

    def checked(self) -> Settings:
        """Itself. Errors: E_INVALIDARG."""
        for path in (self.root, self.reports, *self.homes, *self.disks):
            if not os.path.isabs(path):
                raise VssError(Code.E_INVALIDARG, f"the configuration names {path}; give an absolute path")
        if not os.path.isdir(self.root):
            raise VssError(Code.E_INVALIDARG, f"the root {self.root} is no directory; give the system's tree")
        return msgspec.structs.replace(self, root=os.path.realpath(self.root))

    def place(self, path: str) -> str:
        """Where an absolute path of the system lies on this host."""
        return path if self.root == "/" else f"{self.root}{path}"
