"""The three commands of Samba's ``shell_snap``: shadow copies that Windows's and other requesters ask for over SMB.

Samba calls ``check`` when a share is asked about or added to a shadow copy set, and at the set's commit ``create`` for
one share after the other, without saying that they belong together. So the first ``create`` cuts at one instant all
volumes that were added and not made yet, and the next ones are handed the copies that are there. A share that was added
only after that cut gets a cut of its own.

The copies are client-accessible: they are previous versions of the share too, read-only by their mounts (Samba itself
does not keep clients from writing to an exposed copy).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.create import complete, create_set
from shadowset.requester.samba.share import SharePlace, place_of
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Context, ObjectType
from shadowset.vss.paths import Paths
from shadowset.vss.previous_versions import version_names

ADDED_SECONDS = 120.0
"""How long a share that was added counts as waiting for its copy."""
READY_SECONDS = 10.0
"""How long a copy that was cut along waits for its share's ``create``; Samba calls one right after the other."""
MOUNT_SECONDS = 30.0
WAIT_SECONDS = 25.0
CLIENT = "samba fsrvp"
USAGE = """\
usage: shadowset-samba-fsrvp check PATH | create PATH | delete PATH COPY

Called by Samba's shell_snap module, so that clients of a share can make shadow copies of it over the network.
'shadowset samba config SHARE --path DIR --fsrvp' prints the parameters of smb.conf.

  check PATH        status 0 when PATH lies on a protected volume
  create PATH       make a shadow copy and print where PATH is in it
  delete PATH COPY  delete the shadow copy whose printed path is COPY
"""


class State(msgspec.Struct):
    """What one call leaves for the next: times by volume; copies that were cut along, with the time of the cut."""

    added: dict[str, float] = {}
    ready: dict[str, tuple[str, float]] = {}

    def waiting(self, now: float) -> list[str]:
        """Volumes that were added to a set and not made yet."""
        return [name for name, when in self.added.items() if 0 <= now - when <= ADDED_SECONDS]

    def claim(self, volume: str, now: float) -> str:
        """A copy that was cut along for this volume after it was added; empty when there is none. It is given once."""
        copy, cut = self.ready.pop(volume, ("", 0.0))
        return copy if copy and self.added.get(volume, now) <= cut and 0 <= now - cut <= READY_SECONDS else ""

    def unclaimed(self, now: float) -> list[str]:
        """Takes out the copies for which nobody came."""
        old = [name for name, (_, cut) in self.ready.items() if not 0 <= now - cut <= READY_SECONDS]
        return [self.ready.pop(name)[0] for name in old]


@contextlib.contextmanager
def shared_state(path: str) -> Iterator[State]:
    """The state, for one call at a time; a file that cannot be read counts as empty. Errors: OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(fd, "r+b") as file:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            state = msgspec.json.decode(file.read(), type=State)
        except msgspec.MsgspecError:
            state = State()
        try:
            yield state
        finally:
            file.seek(0)
            file.truncate()
            file.write(msgspec.json.encode(state))


class Fsrvp:
    """The calls."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._state = f"{paths.runtime}/fsrvp.json"

    def _place(self, path: str) -> SharePlace:
        with Administration(self._paths, client=CLIENT) as administration:
            volumes = administration.volume_list()
        return place_of(path, volumes, VolumeMap(volumes, read_mounts()))

    def check(self, path: str) -> None:
        """Errors: VSS_E_OBJECT_NOT_FOUND when there is nothing to make copies of."""
        place = self._place(path)
        with shared_state(self._state) as state:
            state.added[place.volume] = time.time()

    def create(self, path: str) -> str:
        """The directory in the new copy. Errors: VssError, and then there is no copy."""
        place = self._place(path)
        with shared_state(self._state) as state:
            for copy in state.unclaimed(time.time()):
                self._delete_copy(copy)
            copy = state.claim(place.volume, time.time()) or self._cut(state, place.volume)
            state.added.pop(place.volume, None)
        return self._appears(copy, place)

    def _cut(self, state: State, volume: str) -> str:
        """One set of all volumes that wait; the copy of ``volume``."""
        now = time.time()
        volumes = list(dict.fromkeys([volume, *state.waiting(now)]))
        context = Context.CLIENT_ACCESSIBLE_WRITERS
        with BackupComponents(self._paths, CLIENT) as calls:
            record = create_set(calls, volumes, context, WAIT_SECONDS)
            complete(calls, context)
        cut = min(each.created_ns for each in record.snapshots) / 1e9
        copies = {each.original_volume: each.snapshot_id for each in record.snapshots}
        state.ready |= {name: (copy, cut) for name, copy in copies.items() if name != volume}
        return copies[volume]

    def _appears(self, copy: str, place: SharePlace) -> str:
        end = time.monotonic() + MOUNT_SECONDS
        top = f"{self._paths.previous}/{place.volume}"
        while True:
            with Administration(self._paths, client=CLIENT) as administration:
                name = version_names(administration.query(volume=place.volume)).get(copy, "")
            if name and os.path.ismount(f"{top}/{name}"):
                return os.path.normpath(f"{top}/{name}/{place.relative}")
            if time.monotonic() > end:
                self._delete_copy(copy)
                message = f"the shadow copy {copy} does not appear below {top}; look at shadowsetd's log"
                raise VssError(Code.E_UNEXPECTED, message)
            time.sleep(0.05)

    def delete(self, path: str, copy_path: str) -> None:
        """Errors: VSS_E_OBJECT_NOT_FOUND when no copy is shown there."""
        place = self._place(path)
        top = f"{self._paths.previous}/{place.volume}/"
        wanted = copy_path.removeprefix(top).partition("/")[0] if copy_path.startswith(top) else ""
        with Administration(self._paths, client=CLIENT) as administration:
            names = version_names(administration.query(volume=place.volume))
        for copy, name in names.items():
            if name == wanted:
                return self._delete_copy(copy)
        message = f"{copy_path} is in no shadow copy of {place.volume}; it may have been deleted already"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)

    def _delete_copy(self, copy: str) -> None:
        with BackupComponents(self._paths, CLIENT) as calls:
            calls.delete_snapshots(copy, ObjectType.SNAPSHOT, force=True)


def main(arguments: list[str] | None = None) -> int:
    """One call; exit status 0, 1 with a sentence on standard error, or 2 for wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    lengths = {"check": 2, "create": 2, "delete": 3}
    if not given or lengths.get(given[0]) != len(given):
        print(USAGE, end="", file=sys.stderr)
        return 2
    calls = Fsrvp(Paths.from_environment(os.environ))
    try:
        if given[0] == "create":
            print(calls.create(given[1]))
        elif given[0] == "check":
            calls.check(given[1])
        else:
            calls.delete(given[1], given[2])
    except (VssError, OSError) as error:
        print(f"shadowset-samba-fsrvp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
