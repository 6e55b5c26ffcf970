"""How much room the shadow storages took, noted every few minutes while the page is served."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import msgspec

from shadowset.requester.lines import read_lines
from shadowset.requester.page.drawing import Sample
from shadowset.vss.codes import VssError
from shadowset.vss.requester_protocol import StorageInfo

EVERY_S = 300.0
KEPT_S = 30 * 86400.0


class Usage:
    """The samples, in memory and in a file of JSON lines. One thread writes, any may read."""

    def __init__(self, path: str, ask: Callable[[], list[StorageInfo]]) -> None:
        """``ask`` gives what there is now. Samples of the last 30 days are read from the file."""
        self._path = path
        self._ask = ask
        self._samples = [sample for sample in _read(path) if sample.time > time.time() - KEPT_S]
        self._stop = threading.Event()

    def of(self, volume: str) -> list[Sample]:
        """A volume's samples, oldest first."""
        return [sample for sample in self._samples if sample.volume == volume]

    def run(self) -> None:
        """Take samples until ``stop``; without a coordinator there are none meanwhile. Errors: OSError."""
        self._write(self._samples)
        while True:
            self.sample()
            if self._stop.wait(EVERY_S):
                return

    def stop(self) -> None:
        """End ``run``."""
        self._stop.set()

    def sample(self) -> None:
        """Note what there is now. Errors: OSError."""
        try:
            storages = self._ask()
        except VssError:
            return
        moment = round(time.time(), 1)
        fresh = [Sample(moment, storage.volume, storage.used, storage.max_size) for storage in storages]
        self._samples = [each for each in self._samples if each.time > moment - KEPT_S] + fresh
        with open(self._path, "ab") as file:
            file.writelines(msgspec.json.encode(sample) + b"\n" for sample in fresh)

    def _write(self, samples: list[Sample]) -> None:
        """The file anew, without what is too old or damaged."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with open(f"{self._path}.new", "wb") as file:
            file.writelines(msgspec.json.encode(sample) + b"\n" for sample in samples)
        os.replace(f"{self._path}.new", self._path)


def _read(path: str) -> list[Sample]:
    try:
        return read_lines(path, Sample)
    except OSError:
        return []
