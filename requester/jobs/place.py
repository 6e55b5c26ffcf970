"""A directory with a subdirectory for each version of a job: their names, making them, and removing them."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection
from datetime import UTC, datetime

from shadowset.requester.backup.copy import writing
from shadowset.vss.codes import Code, VssError

OURS = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z-[a-z]+")


class Place:
    """``manifest`` is the file that a version gets last, and loses first. Errors of all: VssError."""

    def __init__(self, directory: str, job: str, manifest: str) -> None:
        self.directory = os.path.abspath(directory)
        self._job = job
        self._manifest = manifest

    def names(self) -> list[str]:
        """The versions, and what is left of unfinished ones, oldest first."""
        if not os.path.isdir(self.directory):  # most often a file system that is not mounted
            sentence = f"the target {self.directory} of job {self._job} is no directory; mount its file system, or "
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence + "make it")
        with writing(self.directory):
            return sorted(name for name in os.listdir(self.directory) if OURS.fullmatch(name))

    def path(self, name: str) -> str:
        """Where a version is."""
        return f"{self.directory}/{name}"

    def make(self, kind: str, unfinished: str = "") -> str:
        """A new version's directory, which is that of an unfinished one when that is given; its name."""
        while True:
            second = f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
            if any(name.startswith(second) for name in self.names()):
                time.sleep(0.2)  # a second has only one version, which may turn out to be of another kind
                continue
            name = f"{second}-{kind}"
            with writing(self.directory):
                if unfinished:
                    os.rename(self.path(unfinished), self.path(name))
                else:
                    os.mkdir(self.path(name), mode=0o700)
            return name

    def rename(self, name: str, kind: str) -> str:
        """The version turned out to be of another kind; its new name."""
        renamed = f"{name.rpartition('-')[0]}-{kind}"
        with writing(self.directory):
            os.rename(self.path(name), self.path(renamed))
        return renamed

    def unfinished(self) -> list[str]:
        """What has no manifest, oldest first."""
        return [name for name in self.names() if not os.path.exists(f"{self.path(name)}/{self._manifest}")]

    def clean(self, but: Collection[str] = ()) -> list[str]:
        """Remove what is unfinished; a sentence about each."""
        gone = [name for name in self.unfinished() if name not in but]
        for name in gone:
            self.drop(name)
        return [f"{name} was not finished when its run ended, and is removed" for name in gone]

    def drop(self, name: str) -> None:
        """Remove a version. The manifest goes first, and durably: what an interrupted removal leaves is no backup."""
        directory = self.path(name)
        with writing(directory):
            if os.path.exists(f"{directory}/{self._manifest}"):
                os.unlink(f"{directory}/{self._manifest}")
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            shutil.rmtree(directory)


def moment(name: str) -> str:
    """The time in a version's name, as manifests have it."""
    return f"{name[:13]}:{name[13:15]}:{name[15:17]}Z"
