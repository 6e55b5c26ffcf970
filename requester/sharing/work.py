"""Sharing a shadow copy, and what is known of it: each share is written down before anything is done.

So a crash at any moment, or a reboot, leaves nothing that ``clean`` does not find: a share whose mount is gone, or one
that was written down and not made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

import msgspec

from shadowset.requester.backup.manifest import write_atomically
from shadowset.requester.backup.mounts import is_below, read_mounts
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.jobs.history import now_text
from shadowset.requester.sharing.servers import Share, server_of
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SnapshotProperties

CLIENT = "shadowset expose"
BUSY_SECONDS = 10.0
"""How long a server may take to let go of a copy that it shares no more."""


class Shares:
    """The shares of this host's copies. Errors of all calls: VssError."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._file = f"{paths.state}/shares.json"

    def all(self) -> list[Share]:
        """Those that are written down, oldest first."""
        try:
            with open(self._file, "rb") as file:
                return msgspec.json.decode(file.read(), type=list[Share])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise VssError(Code.VSS_E_UNEXPECTED, f"{self._file} cannot be read: {error}; mend or remove it") from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Share]]:
        """One at a time; what is changed in the list is kept, also after an error."""
        try:
            descriptor = os.open(f"{self._file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise VssError(Code.E_INVALIDARG, f"{self._file}.lock: {error.strerror}; run as root") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self.all()
        finally:
            os.close(descriptor)

    def _save(self, shares: list[Share]) -> None:
        write_atomically(self._file, msgspec.json.format(msgspec.json.encode(shares)) + b"\n")

    def add(self, share: Share, inside: str) -> str:
        """Mount the copy, where it is not, and share its directory ``inside``; how clients call it."""
        server = server_of(share)
        with self._changing() as shares, BackupComponents(self._paths, CLIENT) as calls:
            server.check(share)
            copy = calls.get_snapshot_properties(share.snapshot_id)
            share.ours = not copy.exposed_name or any(one.ours for one in shares if one.mount == copy.exposed_name)
            share.created = now_text()
            shares.append(share)
            self._save(shares)
            try:
                share.mount = copy.exposed_name or calls.expose_snapshot(share.snapshot_id)
                path = directory_in(share.mount, inside)
                _refuse_twice(share, path, shares)
                share.path = path
                self._save(shares)
                return server.add(share)
            except BaseException:
                self._undo(calls, share, shares)
                raise

    def remove(self, wanted: list[Share]) -> None:
        """Share these no more, and unmount the copies that were mounted for it and that nothing else shares."""
        with self._changing() as shares, BackupComponents(self._paths, CLIENT) as calls:
            for share in [one for one in shares if one in wanted]:
                self._undo(calls, share, shares)

    def clean(self) -> list[Share]:
        """Take away what a crash, a reboot or the deletion of a copy left; those."""
        if not self.all():
            return []
        with self._changing() as shares, BackupComponents(self._paths, CLIENT) as calls:
            mounted = {copy.snapshot_id: copy.exposed_name for copy in calls.query()}
            points = {mount.path for mount in read_mounts()}
            gone = [
                share
                for share in shares
                if not share.mount
                or share.mount not in points
                or mounted.get(share.snapshot_id) != share.mount
                or not server_of(share).has(share)
            ]
            for share in gone:
                self._undo(calls, share, shares)
        return gone

    def _undo(self, calls: BackupComponents, share: Share, shares: list[Share]) -> None:
        if share.path:
            server_of(share).remove(share)
        here = [copy for copy in calls.query() if copy.snapshot_id == share.snapshot_id and copy.exposed_name]
        others = [one for one in shares if one is not share and one.snapshot_id == share.snapshot_id]
        if here and share.ours and not others:
            _unmount(calls, here[0])
        shares.remove(share)
        self._save(shares)


def _refuse_twice(share: Share, path: str, shares: list[Share]) -> None:
    if any(one.kind == share.kind and not one.name and one.path == path for one in shares):
        sentence = f"{path} is exported already; take that export away first ('shadowset unexpose')"
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, sentence)


def _unmount(calls: BackupComponents, copy: SnapshotProperties) -> None:
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return calls.unexpose_snapshot(copy.snapshot_id)
        except VssError as error:
            if error.code != Code.VSS_E_VOLUME_IN_USE or time.monotonic() > end:
                raise
        time.sleep(0.2)


def directory_in(mount: str, inside: str) -> str:
    """The directory in a mounted copy. Errors: E_INVALIDARG for one that is not there, or leads out of the copy."""
    place = os.path.realpath(os.path.join(mount, inside.lstrip("/"))) if inside else mount
    if not is_below(place, os.path.realpath(mount)) or not os.path.isdir(place):
        sentence = f"there is no directory {inside} in the shadow copy; give its path from the top of the volume"
        raise VssError(Code.E_INVALIDARG, sentence)
    return place


def find(word: str, shares: list[Share], snapshot_id: str) -> list[Share]:
    """Those that a name, an exported path or a copy means. Errors: VSS_E_OBJECT_NOT_FOUND."""
    named = [one for one in shares if word in (one.name, one.path)]
    found = named or [one for one in shares if snapshot_id and one.snapshot_id == snapshot_id]
    if not found:
        known = ", ".join(one.name or one.path for one in shares) or "none"
        sentence = f"{word} is not shared (shares that are there: {known})"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence)
    return found
