"""What the writer needs of a library that keeps an index in a directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

Release = Callable[[], None]


class Reading(NamedTuple):
    """What an index says of itself: how many documents it has, and a number that grows with each commit."""

    documents: int
    generation: int

    def stamp(self) -> str:
        """As a backup stamp."""
        return f"documents={self.documents} generation={self.generation}"


class Library(Protocol):
    """One library. Errors of all calls: VssError that names the index."""

    name: str

    def lock(self, path: str) -> Release | None:
        """Takes the lock that writers of an index take; None while somebody has it. It ends with this process."""

    def read(self, path: str) -> Reading:
        """What the newest commit holds; needs no lock."""

    def problem(self, path: str) -> str:
        """What is wrong with the files of the newest commit; empty when nothing is. Reads all of them."""


def library_of(kind: str) -> Library:
    """The library by its name in a configuration. Errors: VSS_E_NOT_SUPPORTED when it is not installed."""
    if kind == "xapian":
        from shadowset.writers.index.xapian_library import XapianLibrary

        return XapianLibrary()
    from shadowset.writers.index.tantivy_library import TantivyLibrary

    return TantivyLibrary()
