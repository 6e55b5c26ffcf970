"""A writer process that recovers its database inside the fresh copy, for test_recovery: ``PLACE JOURNAL [WAIT]``."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from typing import Any

from shadowset.vss.enums import ComponentFlag, ComponentType
from shadowset.writers.sdk import Writer, run_until_signal

PLACE, JOURNAL = sys.argv[1:3]


class RecoveringWriter(Writer):
    """One database ``PLACE/db``; ``*.tmp`` is not wanted in copies."""

    writer_id = "9b1c2a57-5f43-4a5e-8f2b-0d6a1f6c7b11"
    name = "Recovering"

    def on_identify(self, metadata: Any) -> None:
        flags = ComponentFlag.BACKUP_RECOVERY
        metadata.add_component(ComponentType.FILEGROUP, "db", flags=flags).add_files(PLACE, "db*")
        metadata.exclude_files_from_snapshot(PLACE, "*.tmp", recursive=True)

    def on_post_snapshot(self, event: Any) -> None:
        path = event.recovery_path(f"{PLACE}/db")
        shown = [os.path.exists(volume.shadow_device) for volume in event.volumes]
        found = {"path": path, "shown": any(shown), "journal": bool(path) and os.path.exists(f"{path}-journal")}
        with open(JOURNAL, "w") as file:
            json.dump(found, file)
        while os.path.exists(f"{JOURNAL}.wait"):
            time.sleep(0.02)
        if path and os.path.exists(f"{JOURNAL}.keep"):
            self.kept = open(path, "rb")  # noqa: SIM115
        if path:
            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE recovered (here)")
            database.close()


run_until_signal(RecoveringWriter())
