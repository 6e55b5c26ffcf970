"""A writer that stops in one event: leaves a mark, then waits for leave to go on. The chain tests run it."""

from __future__ import annotations

import os
import sys
import time

from shadowset.vss.enums import ComponentType
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer


class PhaseWriter(Writer):
    """Stops in the event named on the command line, once."""

    writer_id = "0b6a3a5e-6a52-4d5c-9f3c-5f3b1f6d7a10"
    name = "Phase Writer"
    freeze_timeout_ms = 20_000

    def __init__(self, phase: str, directory: str, places: list[str]) -> None:
        super().__init__()
        self._phase = phase
        self._directory = directory
        self._places = places

    def _pause(self, phase: str) -> None:
        mark, leave = f"{self._directory}/reached", f"{self._directory}/leave"
        if phase != self._phase or os.path.exists(mark):
            return
        with open(mark, "w", encoding="ascii") as file:
            file.write(phase)
        deadline = time.monotonic() + 10
        while not os.path.exists(leave) and time.monotonic() < deadline:
            time.sleep(0.01)

    def on_identify(self, metadata: MetadataBuilder) -> None:
        component = metadata.add_component(ComponentType.FILEGROUP, "files")
        for place in self._places:
            component.add_files(place, "*", recursive=True)

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        self._pause("prepare-backup")

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        self._pause("prepare-snapshot")

    def on_freeze(self, event: CurrentEvent) -> None:
        self._pause("freeze")

    def on_thaw(self, event: CurrentEvent) -> None:
        self._pause("thaw")

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        self._pause("post-snapshot")

    def on_backup_complete(self, event: CurrentEvent) -> None:
        self._pause("backup-complete")


if __name__ == "__main__":
    PhaseWriter(sys.argv[1], sys.argv[2], sys.argv[3:]).run()
