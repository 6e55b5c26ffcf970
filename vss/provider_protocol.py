"""Messages between the coordinator and a volume's provider process, over its control socket.

Each call carries a ``seq`` and is answered by ``done`` or ``failed`` with the same ``seq``. The connection that sent
``hold`` owns the hold: when it closes, writes flow again. A copy that was committed but not finished is *pending*: only
the coordinator knows whether its whole set exists, so it asks for ``describe`` after a restart and finishes or deletes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shadowset.vss.wire import Message


class CopyInfo(msgspec.Struct):
    """One shadow copy in the shadow storage.

    ``number`` is its generation. ``lost`` says that it cannot be read, for ``cause``: storage-full, error, damaged or
    origin-changed. Of copies that must be lost, the lowest ``priority`` (0 to 255) goes first, then the oldest; never
    one that is held. ``attributes`` are those that the coordinator gave with ``finish``, without persistent, 0 when it
    gave none.
    """

    copy_id: str
    set_id: str
    number: int
    created_ns: int
    persistent: bool
    pending: bool
    size: int
    lost: bool = False
    cause: str = ""
    priority: int = 128
    hold_until_ns: int = 0
    lost_bytes: int = 0
    attributes: int = 0


class RevertInfo(msgspec.Struct):
    """A revert that is not finished; ``done`` of ``total`` bytes are as in the copy.

    ``phase`` is preparing (the volume is unchanged), writing, or stopped for ``reason``; then the same call again, or
    the provider's next start, lets it go on.
    """

    copy_id: str
    phase: str
    done: int
    total: int
    reason: str = ""


class MoveInfo(msgspec.Struct):
    """A move of the shadow storage to the directory ``storage``; ``done`` of ``total`` bytes are there.

    ``phase`` is copying, switching, cleaning (it is in the new place already), or stopped for ``reason``: then the
    storage is where it was, and a new move may be asked for.
    """

    storage: str
    phase: str
    done: int
    total: int
    reason: str = ""


class VolumeDescription(msgspec.Struct):
    """A volume as its provider sees it; sizes in bytes.

    ``version`` is that of the code that serves; ``stall_ms`` how long requests waited when it took over from another
    process, 0 when it did not; ``clients`` are those of the live export; ``writes_refused`` is why its writes fail for
    the sake of the copies, "" when they do not.
    """

    name: str
    origin: str
    storage: str
    size: int
    chunk_size: int
    generation: int
    storage_used: int
    nbd_socket: str
    pid: int
    holding: bool
    copies: list[CopyInfo]
    max_size: int = 0
    policy: str = "delete-oldest"
    warn_percent: int = 80
    storage_available: int = 0
    revert: RevertInfo | None = None
    move: MoveInfo | None = None
    version: str = ""
    stall_ms: float = 0.0
    clients: int = -1
    writes_refused: str = ""


class EventInfo(msgspec.Struct):
    """copy-lost, storage-warning, writes-refused, and revert- or move- with started, finished or stopped.

    ``number`` counts up from 1 while the provider runs.
    """

    number: int
    time_ns: int
    event: str
    message: str
    copy_id: str = ""
    cause: str = ""
    freed: int = 0


class Events(msgspec.Struct):
    """Events after the one that was named, oldest first; at most the last 1024 are remembered."""

    events: list[EventInfo]


class Held(msgspec.Struct):
    """All writes that were under way are finished; new ones wait."""

    drain_ms: float


class Committed(msgspec.Struct):
    """The cut is made: ``number`` is the copy's generation."""

    number: int


class Released(msgspec.Struct):
    """Writes flow again; how long they were held and how many requests waited."""

    hold_ms: float
    waited: int


class ChangedRanges(msgspec.Struct):
    """Ranges of a volume that changed, in order, as offset and length in bytes.

    They are whole blocks of ``block_size`` but for the volume's end, a block counting where one byte of it may have
    changed. The answer holds up to ``end``; whoever wants more asks from there. ``size`` is that of the later state.
    """

    block_size: int
    size: int
    end: int
    ranges: list[tuple[int, int]]


class Describe(Message, tag="describe"):
    """Answered with VolumeDescription."""

    seq: int


class Hold(Message, tag="hold"):
    """Hold writes, drain those under way; answered with Held. The gate opens by itself after ``timeout_ms``."""

    seq: int
    timeout_ms: int = 10_000


class Commit(Message, tag="commit"):
    """Make the cut; answered with Committed.

    Errors: VSS_E_HOLD_WRITES_TIMEOUT when the hold has ended, VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED,
    VSS_E_INSUFFICIENT_STORAGE.
    """

    seq: int
    copy_id: str
    set_id: str
    created_ns: int
    persistent: bool = False


class Release(Message, tag="release"):
    """Let writes flow; answered with Released."""

    seq: int


class Finish(Message, tag="finish"):
    """A pending copy belongs to a set that exists as a whole; answered with null.

    The provider keeps ``attributes`` (VSS_VOLUME_SNAPSHOT_ATTRIBUTES) for a coordinator that has lost its catalogue.
    """

    seq: int
    copy_id: str
    attributes: int = 0


class Delete(Message, tag="delete"):
    """Delete a copy; answered with null. Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_BAD_STATE when held without force."""

    seq: int
    copy_id: str
    force: bool = False


class Configure(Message, tag="configure"):
    """Change what is not null; answered with VolumeDescription. ``max_size`` in bytes, 0 is unlimited.

    ``policy`` is delete-oldest, refuse-new or protect-copies. Errors: E_INVALIDARG.
    """

    seq: int
    max_size: int | None = None
    policy: str | None = None
    warn_percent: int | None = None


class SetCopy(Message, tag="set-copy"):
    """Change what is not null; answered with null. Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG."""

    seq: int
    copy_id: str
    priority: int | None = None
    hold_until_ns: int | None = None


class Resize(Message, tag="resize"):
    """The origin was enlarged: take in what it has gained; answered with VolumeDescription. Copies keep their size.

    Errors: VSS_E_VOLUME_NOT_SUPPORTED when the origin is smaller than before, VSS_E_BAD_STATE while writes are held,
    VSS_E_REVERT_IN_PROGRESS.
    """

    seq: int


class Revert(Message, tag="revert"):
    """Take the volume back to a copy; answered with RevertInfo as soon as it is under way. All copies stay as they are.

    While it is under way nobody can use the live export, and no hold is given. Errors: VSS_E_OBJECT_NOT_FOUND,
    VSS_E_BAD_STATE for a copy that is pending or lost or while writes are held, VSS_E_VOLUME_IN_USE while the live
    export has clients, VSS_E_REVERT_IN_PROGRESS, VSS_E_INSUFFICIENT_STORAGE when newer copies could not be kept.
    """

    seq: int
    copy_id: str


class CancelRevert(Message, tag="cancel-revert"):
    """End a revert that has not changed the volume; with ``force`` any, which leaves a mixture; answered with null.

    Errors: VSS_E_BAD_STATE when none is under way, VSS_E_REVERT_IN_PROGRESS when it needs force.
    """

    seq: int
    force: bool = False


class Move(Message, tag="move"):
    """Move the shadow storage to another directory, which is empty or is made, while all goes on.

    Answered with MoveInfo as soon as it is under way; a restart of the provider lets it go on. Errors: E_INVALIDARG,
    VSS_E_OBJECT_NOT_FOUND, VSS_E_OBJECT_ALREADY_EXISTS for the directory, VSS_E_VOLUME_NOT_SUPPORTED when it lies on
    the volume, VSS_E_INSUFFICIENT_STORAGE, VSS_E_BAD_STATE while a move is under way, VSS_E_REVERT_IN_PROGRESS.
    """

    seq: int
    storage: str


class CancelMove(Message, tag="cancel-move"):
    """Give up a move; answered with null. Errors: VSS_E_BAD_STATE when none is under way, or it comes to its end."""

    seq: int


class ListEvents(Message, tag="list-events"):
    """Answered with Events. With ``tell``, the next later event is told once on this connection, by ``happened``."""

    seq: int
    after: int = 0
    tell: bool = False


class TakeOver(Message, tag="take-over"):
    """The sender is another provider process, which wants to go on in place of this one; its only call.

    Answered, when nothing is under way any more, with descriptors and no frame; what goes over the connection then is
    no part of this protocol. Errors: VSS_E_BAD_STATE while writes are held or somebody else takes over,
    VSS_E_UNEXPECTED_PROVIDER_ERROR when requests stay under way.
    """

    seq: int


class Stop(Message, tag="stop"):
    """Finish what is under way, close the storage cleanly and end; answered with null."""

    seq: int


class Done(Message, tag="done"):
    """The call's result; ``msgspec.convert`` makes the type named with the call of it."""

    seq: int
    value: Any = None


class Failed(Message, tag="failed"):
    """Why the call failed; ``name`` is the symbolic name of ``code``."""

    seq: int
    code: int
    name: str
    message: str


class Happened(Message, tag="happened"):
    """Unasked for but by ``tell`` of list-events: there are later events, up to ``number``."""

    number: int


ToProvider = (
    Describe
    | Hold
    | Commit
    | Release
    | Finish
    | Delete
    | Configure
    | SetCopy
    | Resize
    | Revert
    | CancelRevert
    | Move
    | CancelMove
    | ListEvents
    | TakeOver
    | Stop
)
FromProvider = Done | Failed | Happened
