"""Log lines into systemd's journal with fields of their own, where standard error leads there.

Events carry MESSAGE_ID, SHADOWSET_EVENT, SHADOWSET_EVENT_NUMBER, and where they are about one SHADOWSET_VOLUME and
SHADOWSET_SET. The socket never makes us wait: what the journal cannot take at once goes to standard error.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Mapping

from shadowset.vss.events import kind_of, message_id

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
LEVELS = {3: logging.ERROR, 4: logging.WARNING, 5: logging.INFO, 6: logging.INFO}


def leads_to_journal(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the stream that the service manager made for the journal."""
    status = os.fstat(2)
    return environment.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def event_fields(name: str, volume: str, set_id: str, actor: str = "") -> dict[str, str]:
    """What a record of an event carries to the journal, as ``extra`` of logging."""
    fields = {
        "MESSAGE_ID": message_id(name),
        "PRIORITY": str(kind_of(name).priority),
        "SHADOWSET_EVENT": name,
        "SHADOWSET_EVENT_NUMBER": str(kind_of(name).number),
        "SHADOWSET_VOLUME": volume,
        "SHADOWSET_SET": set_id,
        "SHADOWSET_BY": actor,
    }
    return {field: value for field, value in fields.items() if value}


def event_level(name: str) -> int:
    """The level at which an event is logged."""
    return LEVELS[kind_of(name).priority]


class JournalHandler(logging.Handler):
    """Datagrams of the journal's native protocol; ``otherwise`` takes what does not get through."""

    def __init__(self, otherwise: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        self._otherwise = otherwise
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, under the handler's lock."""
        try:
            self._socket.sendto(datagram(self._fields(record)), self._path)
        except OSError:
            self._otherwise.handle(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "shadowsetd",
        }
        own: dict[str, str] = getattr(record, "journal", {})
        return fields | own

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def datagram(fields: Mapping[str, str]) -> bytes:
    """Fields as the journal reads them: a value of several lines is preceded by its length. Pure."""
    parts = []
    for name, text in fields.items():
        value = text.encode("utf-8", "surrogateescape")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)
