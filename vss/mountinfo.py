"""The kernel's mount table as text, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo; ``device`` is ``major:minor``, ``root`` what of its file system is mounted.

    Where it is ``shared``, what is mounted on it shows up in other namespaces.
    """

    mount_id: int
    device: str
    root: str
    path: str
    fs_type: str
    source: str
    shared: bool = False


def parse_mountinfo(text: str) -> list[Mount]:
    """All mounts, in the order of the table; lines of an unknown shape are left out."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        head, tail = before.split(" "), after.split(" ")
        if separator and len(head) >= 6 and len(tail) >= 2:
            path, root, source = map(_plain, (head[4], head[3], tail[1]))
            shared = any(word.startswith("shared:") for word in head[6:])
            mounts.append(Mount(int(head[0]), head[2], root, path, tail[0], source, shared))
    return mounts


def _plain(field: str) -> str:
    escaped = field.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), escaped).decode("utf-8", "surrogateescape")
