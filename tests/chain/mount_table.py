"""What the mount table says of this place."""

from __future__ import annotations

from pathlib import Path


def root_is_mount() -> bool:
    """Not so in a chroot on a plain directory, where no mount namespace can be cut off from the host's."""
    return any(line.split()[4] == "/" for line in Path("/proc/self/mountinfo").read_text().splitlines())
