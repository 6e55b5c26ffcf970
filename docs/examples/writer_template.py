"""A writer to start from: one component for a directory, held by a lock file that the application takes to write.

    python writer_template.py DIRECTORY

Copy it, make a GUID of your own (`uuidgen`), and replace what is marked with (1) to (6).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time

from shadowset.vss.codes import Code
from shadowset.vss.enums import ComponentType, FileRestoreStatus, RestoreMethodType, SourceType, WriterRestore
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, VssError, Writer, run_until_signal

COMPONENT = "notes"
LOCK = "lock"


class NotesWriter(Writer):
    """(1) Who you are. The id stays the same for ever; backups are found by it."""

    writer_id = "0d8a2b62-5b0f-4a5d-9d0e-9a3f0d3f6b11"
    name = "Notes Writer"
    source = SourceType.NONTRANSACTEDDB
    freeze_timeout_ms = 4000  # the longest time that your application can be held

    def __init__(self, directory: str, socket_path: str = "") -> None:
        super().__init__(socket_path)
        self.directory = os.path.realpath(directory)
        self._lock = -1

    def on_identify(self, metadata: MetadataBuilder) -> None:
        """(2) What you have. Look at it anew each time, and change nothing."""
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        component = metadata.add_component(
            ComponentType.FILEGROUP, COMPONENT, caption=f"Notes in {self.directory}", selectable_for_restore=True
        )
        component.add_files(self.directory, "*", recursive=True)
        metadata.exclude_files(self.directory, LOCK)

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """(3) All that takes long: flush, checkpoint. Nobody is held yet, so there is time."""
        self._let_go()
        if event.is_path_left_out(self.directory):
            message = f"{self.directory} lies on no volume of the set; add its volume and try again"
            event.set_failure(Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, message)

    def on_freeze(self, event: CurrentEvent) -> None:
        """(4) Hold the application by something that ends with this process: a lock, a session, a lease."""
        lock = os.open(f"{self.directory}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        patience = time.monotonic() + event.remaining / 2  # the rest of the window is for the others and the cut
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < patience and not event.cancelled:
                    time.sleep(0.01)
                    continue
                os.close(lock)
                message = f"{self.directory} was busy all the time; try again when less is written"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message) from None
            break
        self._lock = lock

    def on_thaw(self, event: CurrentEvent) -> None:
        self._let_go()

    def on_abort(self, event: CurrentEvent) -> None:
        """Undo everything, however far it came; this may come at any time and more than once."""
        self._let_go()

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        """(5) What the restore shall know."""
        for component in event.components:
            component.backup_metadata = json.dumps({"directory": self.directory})

    def on_post_restore(self, event: CurrentEvent) -> None:
        """(6) The files are back: check them, and say so when they are not sound."""
        component = event.component("", COMPONENT)
        if component is None or component.file_restore_status != FileRestoreStatus.ALL:
            return
        empty = [entry.name for entry in os.scandir(self.directory) if not entry.stat().st_size and entry.name != LOCK]
        if empty:
            component.post_restore_failure_message = f"the note {empty[0]} is empty; restore another backup"
            event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, component.post_restore_failure_message)

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: writer_template.py DIRECTORY")
    run_until_signal(NotesWriter(sys.argv[1]))
