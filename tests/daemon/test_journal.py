"""Log lines and events as the journal reads them."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowset.daemon.journal import (
    JournalHandler,
    datagram,
    event_fields,
    event_level,
    leads_to_journal,
)
from shadowset.vss.events import message_id


def fields_of(data: bytes) -> dict[str, str]:
    """As the journal takes a datagram apart."""
    found = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if equals:
            data = rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            value, data = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journal() -> Iterator[socket.socket]:
    directory = Path(f"/tmp/ss-journal-{os.getpid()}")
    directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(directory / "socket"))
        listener.settimeout(30)
        yield listener
    shutil.rmtree(directory)


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_an_event_stands_in_the_journal_with_its_fields(journal: socket.socket) -> None:
    handler = JournalHandler(Kept(), journal.getsockname())
    log = logging.Logger("x")
    log.addHandler(handler)
    extra = {"journal": event_fields("snapshot-lost", "data", "")}
    log.log(event_level("snapshot-lost"), "%s: %s", "snapshot-lost", "gone\nfor good", extra=extra)
    assert fields_of(journal.recv(65536)) == {
        "MESSAGE": "snapshot-lost: gone\nfor good", "PRIORITY": "3", "SYSLOG_IDENTIFIER": "shadowsetd",
        "MESSAGE_ID": message_id("snapshot-lost"), "SHADOWSET_EVENT": "snapshot-lost",
        "SHADOWSET_EVENT_NUMBER": "111", "SHADOWSET_VOLUME": "data",
    }  # fmt: skip
    log.warning("plain")
    assert fields_of(journal.recv(65536)) == {
        "MESSAGE": "plain", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "shadowsetd"
    }  # fmt: skip
    handler.close()


def test_what_the_journal_does_not_take_goes_elsewhere(journal: socket.socket) -> None:
    kept = Kept()
    handler = JournalHandler(kept, journal.getsockname())
    log = logging.Logger("x")
    log.addHandler(handler)
    log.info("x" * 10_000_000)
    number = 0
    while len(kept.lines) < 2:  # until nobody reads and the queue is full
        log.info("line %d", number)
        number += 1
        assert number < 100_000
    assert kept.lines[1] == f"line {number - 1}"
    handler.close()


def test_where_standard_error_leads() -> None:
    status = os.fstat(2)
    assert leads_to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not leads_to_journal({"JOURNAL_STREAM": "1:1"}) and not leads_to_journal({})


def test_a_value_of_several_lines_has_its_length() -> None:
    assert datagram({"A": "1", "B": "2\n3"}) == b"A=1\nB\n\x03\0\0\0\0\0\0\x002\n3\n"


def test_grave_events_are_logged_as_such() -> None:
    assert event_level("provider-lost") == logging.ERROR and event_level("storage-warning") == logging.WARNING
    assert event_level("set-created") == event_level("volume-removed") == logging.INFO
