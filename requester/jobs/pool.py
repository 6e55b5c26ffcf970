"""Contents that several backups have in common, stored once.

``.objects/ab/abcd….SIZE`` is a hard link to the stored file of every backup that has this content. So each backup stays
an ordinary directory, readable without the pool, and a content goes with the last backup that has it. What belongs to
a file besides its content stands in the manifests.
"""

from __future__ import annotations

import errno
import os

from shadowset.requester.backup.catalogue import OBJECTS
from shadowset.requester.backup.copy import digest_file, writing


class Pool:
    """The pool beside some backups, for one backup at a time."""

    def __init__(self, place: str) -> None:
        """Errors: TargetError."""
        self._root = f"{place}/{OBJECTS}"
        self._sound: set[str] = set()
        with writing(self._root):
            self._drop(f"{self._root}/new")

    def settle(self, path: str, size: int, sha256: str) -> bool:
        """The stored file ``path`` becomes a link to the content in the pool, or goes in; whether it was there.

        Errors: TargetError.
        """
        if not size:
            return False
        place = self._object(size, sha256)
        with writing(path):
            if self._is_sound(place, size, sha256) and self._link_over(place, path):
                return True
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            self._link_over(path, place)
            self._sound.add(place)
        return False

    def has(self, path: str, size: int, sha256: str) -> bool:
        """Whether ``path`` is a link to this content already, and it is sound. Errors: TargetError."""
        place = self._object(size, sha256)
        with writing(path):
            same = os.path.lexists(place) and os.path.samestat(os.lstat(place), os.lstat(path))
            return same and self._is_sound(place, size, sha256)

    def _object(self, size: int, sha256: str) -> str:
        return f"{self._root}/{sha256[:2]}/{sha256}.{size}"

    def sweep(self) -> int:
        """Remove what no backup has any more; the bytes. Errors: TargetError."""
        freed = 0
        with writing(self._root):
            for directory, _, names in os.walk(self._root):
                for name in names:
                    status = os.lstat(f"{directory}/{name}")
                    if status.st_nlink == 1:
                        os.unlink(f"{directory}/{name}")
                        freed += status.st_size
        return freed

    def _is_sound(self, place: str, size: int, sha256: str) -> bool:
        """A damaged content must not become part of one more backup, so it is read once before it is used."""
        if place in self._sound:
            return True
        try:
            sound = digest_file(place, lambda count: None) == (size, sha256)
        except OSError:
            return False
        if sound:
            self._sound.add(place)
        return sound

    def _link_over(self, source: str, path: str) -> bool:
        """Whether it could be done; at some number a file takes no more links."""
        beside = f"{self._root}/new"
        try:
            os.link(source, beside)
        except OSError as error:
            if error.errno == errno.EMLINK:
                return False
            raise
        os.rename(beside, path)
        self._drop(beside)  # two names of one file: rename does nothing then
        return True

    @staticmethod
    def _drop(path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
