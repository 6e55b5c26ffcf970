"""A writer that keeps a set in one of its phases until it is told to go on."""

from __future__ import annotations

import os
from typing import Any

EVENTS = {
    "prepare-backup": "PrepareForBackup",
    "prepare-snapshot": "PrepareForSnapshot",
    "freeze": "Freeze",
    "thaw": "Thaw",
    "post-snapshot": "PostSnapshot",
    "backup-complete": "BackupComplete",
}


class PhaseWriter:
    """A process with a part of each volume. In ``phase`` it leaves a mark and waits; other phases it does not know."""

    def __init__(self, chain: Any, phase: str, level: str = "FRONT_END") -> None:
        self._chain, self._directory = chain, f"{chain.runtime}/phase"
        os.makedirs(self._directory, exist_ok=True)
        for name in ("reached", "leave"):
            if os.path.exists(f"{self._directory}/{name}"):
                os.unlink(f"{self._directory}/{name}")
        config = f"{self._directory}/writer.toml"
        with open(config, "w", encoding="utf-8") as file:
            file.write(self._text(phase, level))
        self.process = chain.module("shadowset.writers.testwriter.main", config)

    def _text(self, phase: str, level: str) -> str:
        places = self._chain.places.values()
        files = "".join(f'{{ path = "{place}", filespec = "phase", recursive = true }},' for place in places)
        text = (
            f'writer_name = "Phase Writer"\nfreeze_timeout_ms = 20000\nlevel = "{level}"\n'
            '[restore_method]\nmethod = "RESTORE_IF_CAN_REPLACE"\n'
            f'[[component]]\ncomponent_type = "filegroup"\ncomponent_name = "files"\ncomponent_file = [{files}]\n'
        )
        if phase in EVENTS:
            text += f'[[action]]\nwriter_event = "{EVENTS[phase]}"\ntimes = 1\n'
            text += f'mark = "{self._directory}/reached"\nwait_for = "{self._directory}/leave"\n'
        return text

    def registered(self) -> bool:
        return any(entry["name"] == "Phase Writer" and entry["connected"] for entry in self._chain.cli("writers"))

    def reached(self) -> bool:
        return os.path.exists(f"{self._directory}/reached")

    def leave(self) -> None:
        """Lets the set go on."""
        with open(f"{self._directory}/leave", "w", encoding="ascii"):
            pass

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
