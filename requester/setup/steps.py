"""What setup does, one step each: whether it is needed, doing it, and taking it back.

A step that stands in the record (``Record``) was made by setup, and its undo takes away that and nothing else: what
somebody changed or filled since then remains, and ``remains`` says why.
"""

from __future__ import annotations

import hashlib
import os
from typing import ClassVar, Protocol

import msgspec

from shadowset.requester.setup.tree import Tree


class Step(Protocol):
    """One thing on the host; ``known`` is how the record knows it."""

    @property
    def known(self) -> str: ...

    def what(self, tree: Tree) -> str:
        """Its name for people, as it lies in the tree."""

    def there(self, tree: Tree) -> bool:
        """Whether there is nothing to do."""

    def do(self, tree: Tree) -> None:
        """Errors: VssError, OSError."""

    def remains(self, tree: Tree, gone: set[str]) -> str:
        """Why it cannot be taken away, or ""; the paths in ``gone`` count as removed already."""

    def undo(self, tree: Tree) -> None:
        """Take it away, when nothing is against it; it may be gone already. Errors: VssError, OSError."""


class Group(msgspec.Struct, tag="group", frozen=True):
    """A system group, for those who may be requesters and writers."""

    name: str

    @property
    def known(self) -> str:
        return f"group {self.name}"

    def what(self, tree: Tree) -> str:
        return f"group {self.name}{_inside(tree)}"

    def there(self, tree: Tree) -> bool:
        return self._line(tree) is not None

    def _line(self, tree: Tree) -> list[str] | None:
        lines = (line.split(":") for line in tree.read("/etc/group").splitlines())
        return next((fields for fields in lines if fields[0] == self.name), None)

    def do(self, tree: Tree) -> None:
        prefix = ("--prefix", tree.root) if tree.root else ()
        tree.must("groupadd", *prefix, "--system", self.name)

    def remains(self, tree: Tree, gone: set[str]) -> str:
        line = self._line(tree) or []
        return f"it has members ({line[3]})" if line[3:] and line[3] else ""

    def undo(self, tree: Tree) -> None:
        if self.there(tree):
            prefix = ("--prefix", tree.root) if tree.root else ()
            tree.must("groupdel", *prefix, self.name)


class Directory(msgspec.Struct, tag="directory", frozen=True):
    """A directory of root's; a ``parent`` was missing above others, and is everybody's once it holds something else."""

    path: str
    mode: int = 0o755
    parent: bool = False

    @property
    def known(self) -> str:
        return f"directory {self.path}"

    def what(self, tree: Tree) -> str:
        return f"directory {tree.at(self.path)} (mode {self.mode:04o})"

    def there(self, tree: Tree) -> bool:
        return os.path.isdir(tree.at(self.path))

    def do(self, tree: Tree) -> None:
        os.makedirs(tree.at(self.path), exist_ok=True)
        os.chmod(tree.at(self.path), self.mode)

    def remains(self, tree: Tree, gone: set[str]) -> str:
        names = os.listdir(tree.at(self.path)) if self.there(tree) else []
        left = sorted(name for name in names if f"{self.path}/{name}" not in gone)
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        return f"it still holds {', '.join(left[:3])}{more}" if left else ""

    def undo(self, tree: Tree) -> None:
        if self.there(tree):
            os.rmdir(tree.at(self.path))


class File(msgspec.Struct, tag="file", frozen=True):
    """A text file; ``digest`` is of the text that setup wrote, and the record keeps that alone."""

    path: str
    digest: str
    text: str = ""
    mode: int = 0o644

    CHANGED: ClassVar[str] = "it was changed after setup had made it"

    @classmethod
    def of(cls, path: str, text: str, mode: int = 0o644) -> File:
        """The step that writes this text."""
        return cls(path, hashlib.sha256(text.encode()).hexdigest(), text, mode)

    @property
    def known(self) -> str:
        return f"file {self.path}"

    def what(self, tree: Tree) -> str:
        return f"file {tree.at(self.path)}"

    def there(self, tree: Tree) -> bool:
        return tree.digest(self.path) == self.digest

    def do(self, tree: Tree) -> None:
        os.makedirs(os.path.dirname(tree.at(self.path)), exist_ok=True)
        tree.write(self.path, self.text, self.mode)

    def remains(self, tree: Tree, gone: set[str]) -> str:
        return self.CHANGED if tree.exists(self.path) and not self.there(tree) else ""

    def undo(self, tree: Tree) -> None:
        if tree.exists(self.path):
            os.unlink(tree.at(self.path))


class Enabled(msgspec.Struct, tag="enabled", frozen=True):
    """A unit that starts with the host."""

    unit: str

    @property
    def known(self) -> str:
        return f"enabled {self.unit}"

    def what(self, tree: Tree) -> str:
        return f"enabled unit {self.unit}{_inside(tree)}"

    def there(self, tree: Tree) -> bool:
        return tree.run(*_systemctl(tree), "is-enabled", self.unit)[0] == 0

    def do(self, tree: Tree) -> None:
        tree.must(*_systemctl(tree), "enable", self.unit)

    def remains(self, tree: Tree, gone: set[str]) -> str:
        return ""

    def undo(self, tree: Tree) -> None:
        if tree.live:
            tree.must("systemctl", "stop", self.unit)
        if self.there(tree):
            tree.must(*_systemctl(tree), "disable", self.unit)


def _inside(tree: Tree) -> str:
    return f" in {tree.root}" if tree.root else ""


def _systemctl(tree: Tree) -> tuple[str, ...]:
    """Without systemd as first process, its own tools work on the links in the tree."""
    return ("systemctl", "--quiet") if tree.live else ("systemctl", "--quiet", f"--root={tree.root or '/'}")


AnyStep = Group | Directory | File | Enabled
