"""What setup has made on a host, so that its undo takes away that and nothing else."""

from __future__ import annotations

import os

import msgspec

from shadowset.requester.setup.steps import AnyStep, File
from shadowset.requester.setup.tree import Tree
from shadowset.vss.codes import Code, VssError

FORMAT = 1


class Kept(msgspec.Struct):
    """The file's content; ``made`` in the order in which it was made."""

    made: list[AnyStep]
    format: int = FORMAT


class Record:
    """``setup.json`` in the state directory."""

    def __init__(self, tree: Tree, path: str) -> None:
        """Errors: VssError for a file that cannot be used."""
        self._tree = tree
        self.path = path
        self.made: dict[str, AnyStep] = {each.known: each for each in self._load()}

    def _load(self) -> list[AnyStep]:
        text = self._tree.read(self.path)
        if not text:
            return []
        where = self._tree.at(self.path)
        try:
            version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"0"))
            if int(bytes(version)) > FORMAT:
                raise VssError(
                    Code.VSS_E_NOT_SUPPORTED, f"{where} has format {bytes(version).decode()}; use the newer shadowset"
                )
            return msgspec.json.decode(text, type=Kept).made
        except (msgspec.DecodeError, ValueError) as error:
            raise VssError(
                Code.E_UNEXPECTED,
                f"{where} cannot be read: {error}; remove it, and nothing is known of an earlier setup any more",
            ) from None

    def add(self, step: AnyStep) -> None:
        """Remember a step, before it is done: what was not done after all is no harm to undo."""
        kept = msgspec.structs.replace(step, text="") if isinstance(step, File) else step
        self.made[kept.known] = kept
        self.save()

    def drop(self, step: AnyStep) -> None:
        """Forget a step that was undone."""
        self.made.pop(step.known, None)
        if self._tree.exists(self.path):
            self.save()

    def save(self) -> None:
        """Errors: OSError."""
        os.makedirs(os.path.dirname(self._tree.at(self.path)), mode=0o700, exist_ok=True)
        encoded = msgspec.json.format(msgspec.json.encode(Kept(list(self.made.values()))))
        self._tree.write(self.path, encoded.decode() + "\n", 0o600)

    def remove(self) -> None:
        """Nothing that setup made is left, or only the directory of this file, which is to be empty."""
        if self._tree.exists(self.path):
            os.unlink(self._tree.at(self.path))
