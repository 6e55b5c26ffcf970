"""Messages between the coordinator and its writers, over ``writer.sock``.

A writer connects, says ``hello`` and is answered ``welcome`` (or ``refused``, and the connection closes). From then on
the coordinator sends ``event`` messages, each with a ``seq``, and the writer answers each with a ``reply`` of the same
``seq``. The connection is the writer's life: when it closes between freeze and thaw, the set fails.
"""

from __future__ import annotations

import msgspec

from shadowset.vss.components import Component
from shadowset.vss.enums import BackupType, Level, RestoreType, WriterEvent
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.wire import PROTOCOL_VERSION, Message


class Hello(Message, tag="hello"):
    """First message of a writer.

    ``writer_id`` is the class id, a GUID fixed by the writer's developer; ``instance_id`` is new at each start and
    made by the coordinator when empty; ``freeze_timeout_ms`` is the longest time between freeze and thaw that the
    application can take.
    """

    writer_id: str
    name: str
    protocol: int = PROTOCOL_VERSION
    instance_id: str = ""
    instance_name: str = ""
    level: Level = Level.FRONT_END
    freeze_timeout_ms: int = 60_000


class Welcome(Message, tag="welcome"):
    """The writer is registered under ``instance_id``."""

    protocol: int
    instance_id: str
    version: str


class Refused(Message, tag="refused"):
    """Why the connection is about to be closed; ``name`` is the symbolic name of ``code``."""

    code: int
    name: str
    message: str


class EventVolume(msgspec.Struct):
    """A volume of the set; ``shadow_device`` is filled from post-snapshot on.

    ``recovery_path`` is filled in post-snapshot when something of the set needs recovery or deletion inside the copy:
    the copy is mounted there and takes writes until the writers have answered.
    """

    name: str
    mount_points: list[str] = []
    shadow_id: str = ""
    shadow_device: str = ""
    recovery_path: str = ""


class Event(Message, tag="event"):
    """Something the writer must do now, within ``deadline_ms``.

    ``components`` are the writer's own components of the backup components document: null when components are not
    selected (the writer decides by volumes), and absent from events that VSS gives no component list.
    """

    seq: int
    event: WriterEvent
    session: str
    deadline_ms: int
    set: str = ""
    level: Level = Level.FRONT_END
    context: int = 0
    backup_type: BackupType = BackupType.UNDEFINED
    restore_type: RestoreType = RestoreType.UNDEFINED
    select_components: bool = True
    bootable_system_state: bool = False
    partial_files: bool = False
    volumes: list[EventVolume] = []
    components: list[Component] | None = None


class Reply(Message, tag="reply"):
    """The writer's answer to one event.

    ``veto`` is true where the handler refused (VSS: returned false); a ``code`` without ``veto`` reports a failure and
    lets the creation go on. ``metadata`` answers identify; ``components`` are sent back when the writer changed them.
    """

    seq: int
    code: int = 0
    veto: bool = False
    application_code: int = 0
    message: str = ""
    metadata: WriterMetadata | None = None
    components: list[Component] | None = None


class Progress(Message, tag="progress"):
    """How far a long event has come; ``total`` is 0 when unknown."""

    seq: int
    done: int = 0
    total: int = 0
    text: str = ""


class Log(Message, tag="log"):
    """A line for the coordinator's log."""

    text: str


FromWriter = Hello | Reply | Progress | Log
ToWriter = Welcome | Refused | Event
