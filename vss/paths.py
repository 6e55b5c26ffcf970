"""Where things lie. Every directory can be moved by an environment variable, so that hosts and tests can differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEVICE_PREFIX = "HarddiskVolumeShadowCopy"


@dataclass(frozen=True)
class Paths:
    """The directories and sockets of one Shadowset installation."""

    runtime: str = "/run/shadowset"
    state: str = "/var/lib/shadowset"
    config: str = "/etc/shadowset"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Paths:
        """``SHADOWSET_RUNTIME_DIR``, ``_STATE_DIR`` and ``_CONFIG_DIR``, or the places of an installed service."""
        return cls(
            runtime=environment.get("SHADOWSET_RUNTIME_DIR", cls.runtime),
            state=environment.get("SHADOWSET_STATE_DIR", cls.state),
            config=environment.get("SHADOWSET_CONFIG_DIR", cls.config),
        )

    @property
    def daemon_config(self) -> str:
        """The coordinator's time-outs and caps."""
        return f"{self.config}/shadowsetd.toml"

    @property
    def daemon_drop_ins(self) -> str:
        """Further files of that kind, in the order of their names."""
        return f"{self.config}/shadowsetd.d"

    @property
    def express_writers(self) -> str:
        """Metadata documents of writers that have no process."""
        return f"{self.config}/express-writers.d"

    @property
    def not_to_backup(self) -> str:
        """The host's list of files that are not backed up."""
        return f"{self.config}/files-not-to-backup.toml"

    @property
    def not_to_snapshot(self) -> str:
        """The host's list of files that are deleted in shadow copies."""
        return f"{self.config}/files-not-to-snapshot.toml"

    @property
    def jobs(self) -> str:
        """Definitions of backup jobs, one file each."""
        return f"{self.config}/jobs.d"

    @property
    def job_state(self) -> str:
        """What jobs remember: how they went, locks, caches."""
        return f"{self.state}/jobs"

    @property
    def access(self) -> str:
        """Files with rules about who may be a writer or a requester."""
        return f"{self.config}/access.d"

    @property
    def requester_socket(self) -> str:
        """Where requesters connect."""
        return f"{self.runtime}/requester.sock"

    @property
    def writer_socket(self) -> str:
        """Where writers connect."""
        return f"{self.runtime}/writer.sock"

    @property
    def devices(self) -> str:
        """Mount point of the shadow copies' device objects."""
        return f"{self.runtime}/devices"

    @property
    def layers(self) -> str:
        """Fresh copies while their writers may write into them, one directory each."""
        return f"{self.runtime}/recovery"

    @property
    def layer_servers(self) -> str:
        """What serves them, one directory each."""
        return f"{self.runtime}/layers"

    @property
    def scratch(self) -> str:
        """What serves finished copies with changes of their own, so that they can be mounted, one directory each."""
        return f"{self.runtime}/scratch"

    @property
    def copy_devices(self) -> str:
        """Copies that somebody wanted as block devices, one directory each."""
        return f"{self.runtime}/copy-devices"

    @property
    def trees(self) -> str:
        """Shadow copies that are directories instead of device objects."""
        return f"{self.runtime}/trees"

    @property
    def objects(self) -> str:
        """Descriptions of the device objects, one JSON file each, from which the FUSE layer serves."""
        return f"{self.runtime}/objects"

    @property
    def mounts(self) -> str:
        """Shadow copies mounted for reading, one directory each."""
        return f"{self.runtime}/mnt"

    @property
    def previous(self) -> str:
        """Client-accessible shadow copies, a directory per volume with a mount per copy, for file servers."""
        return f"{self.runtime}/previous"

    @property
    def frozen(self) -> str:
        """Journals of file systems that are about to be frozen, one a set; lies on a memory file system."""
        return f"{self.runtime}/frozen"

    @property
    def catalogue(self) -> str:
        """The coordinator's data base."""
        return f"{self.state}/catalogue.db"

    @property
    def storage(self) -> str:
        """Where shadow storage goes unless another place is named, a directory per volume."""
        return f"{self.state}/storage"

    @property
    def losses(self) -> tuple[str, str]:
        """Where a provider records lost copies when their shadow storage takes no write, the lasting place first."""
        return f"{self.state}/losses", f"{self.runtime}/losses"

    @property
    def pending(self) -> str:
        """Restored files that take their places at the next boot."""
        return f"{self.state}/pending-restore"

    def volume(self, name: str) -> str:
        """Run-time directory of one volume."""
        return f"{self.runtime}/volumes/{name}"

    def nbd_socket(self, name: str) -> str:
        """Live NBD export of one volume."""
        return f"{self.volume(name)}/nbd.sock"

    def control_socket(self, name: str) -> str:
        """Control socket of one volume's provider."""
        return f"{self.volume(name)}/control.sock"

    def provider_runtime(self, name: str) -> str:
        """Run-time directory of a provider that lives in the coordinator."""
        return f"{self.runtime}/providers/{name}"

    def provider_state(self, name: str) -> str:
        """What such a provider keeps for good."""
        return f"{self.state}/providers/{name}"

    def tree(self, number: int) -> str:
        """Directory of one shadow copy that is no device."""
        return f"{self.trees}/{DEVICE_PREFIX}{number}"

    def by_name(self, volume: str) -> str:
        """A name of a live device that is no device path: systemd does not wait for udev to know it."""
        return f"{self.runtime}/by-name/{volume}"

    def device(self, number: int) -> str:
        """Device object of one shadow copy."""
        return f"{self.devices}/{DEVICE_PREFIX}{number}"
