"""tantivy: writers lock a file, and ``meta.json`` names the segments of the newest commit."""

from __future__ import annotations

import fcntl
import importlib
import os

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.index.library import Reading, Release

LOCK = ".tantivy-writer.lock"
META = "meta.json"


class Deletes(msgspec.Struct):
    """Documents of a segment that count no more."""

    num_deleted_docs: int


class Segment(msgspec.Struct):
    """One segment."""

    segment_id: str
    max_doc: int
    deletes: Deletes | None = None


class Meta(msgspec.Struct):
    """A commit."""

    segments: list[Segment]
    opstamp: int


class TantivyLibrary:
    """Indexes of tantivy, by their files; the library itself is for the check."""

    name = "tantivy"

    def __init__(self) -> None:
        """Errors: VSS_E_NOT_SUPPORTED."""
        try:
            self._tantivy = importlib.import_module("tantivy")
        except ImportError as missing:
            message = f"tantivy is not there ({missing}); install it with pip install 'shadowset[index]'"
            raise VssError(Code.VSS_E_NOT_SUPPORTED, message) from missing

    def lock(self, path: str) -> Release | None:
        try:
            owner = os.stat(path)
            fd = os.open(f"{path}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise _error(path, error) from error
        try:
            if os.geteuid() == 0:
                os.fchown(fd, owner.st_uid, owner.st_gid)  # or its application could not lock it any more
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            raise _error(path, error) from error
        return lambda: os.close(fd)

    def read(self, path: str) -> Reading:
        meta = _meta(path)
        deleted = sum(segment.deletes.num_deleted_docs for segment in meta.segments if segment.deletes)
        return Reading(sum(segment.max_doc for segment in meta.segments) - deleted, meta.opstamp)

    def problem(self, path: str) -> str:
        try:
            searcher = self._tantivy.Index.open(path).searcher()
            everything = searcher.search(self._tantivy.Query.all_query(), max(1, searcher.num_docs)).hits
            for _score, address in everything:
                searcher.doc(address)
        except (ValueError, OSError) as error:
            return str(error)
        found, said = len(everything), self.read(path).documents
        return "" if found == said else f"{found} documents are found, and {META} says {said}"


def _meta(path: str) -> Meta:
    try:
        with open(f"{path}/{META}", "rb") as file:
            return msgspec.json.decode(file.read(), type=Meta)
    except (OSError, msgspec.DecodeError) as error:
        raise _error(path, error) from error


def _error(path: str, error: Exception) -> VssError:
    message = f"the tantivy index {path} cannot be opened ({error}); check its configuration and its owner"
    return VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
