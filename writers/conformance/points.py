"""What every writer must do, point by point. Each is a function that raises Fault, or says what is worth knowing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec

from shadowset.vss.codes import Code
from shadowset.vss.enums import WriterEvent
from shadowset.vss.validate import is_guid, validate_metadata
from shadowset.vss.wire import LENGTH_BYTES, encode
from shadowset.vss.writer_protocol import Refused, Reply
from shadowset.writers.conformance.bench import END_SECONDS, Bench
from shadowset.writers.conformance.coordinator import Fault, WriterSide

E = WriterEvent
Point = Callable[[Bench], str]
LONGEST_WINDOW_MS = 5000
LATE_SECONDS = 1.0
QUIET_SECONDS = 1.0
MOST_HELLOS = 20
CLOSE_SECONDS = 15.0


def require(condition: object, sentence: str) -> None:
    """Errors: Fault."""
    if not condition:
        raise Fault(sentence)


def events(bench: Bench, kinds: tuple[WriterEvent, ...], side: WriterSide, **fields: Any) -> None:
    """These events in one session, all of which must go well. Errors: Fault."""
    fields = {"session": bench.session(), "volumes": bench.volumes(), "components": bench.chosen(), **fields}
    for kind in kinds:
        check_components(side.ok(kind, **fields), fields["components"])


def check_components(answer: Reply, sent: Any) -> None:
    """A writer may change its components, and neither add nor drop any. Errors: Fault."""
    if answer.components is not None:
        known = {each.full_path for each in sent or []}
        foreign = {each.full_path for each in answer.components} - known
        require(not foreign, f"it answered with a component that it was not sent: {sorted(foreign)}")


SET = (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE, E.THAW, E.POST_SNAPSHOT)
BACKUP = (*SET, E.BACKUP_COMPLETE, E.BACKUP_SHUTDOWN)


def hello(bench: Bench) -> str:
    """says hello first, with a GUID as class id and a name"""
    said = bench.side().hello
    require(is_guid(said.writer_id), f"its writer_id {said.writer_id!r} is no GUID")
    require(said.name, "its name is empty")
    require(said.protocol == 1, f"it speaks version {said.protocol} of the protocol")
    require(said.freeze_timeout_ms > 0, f"its freeze_timeout_ms is {said.freeze_timeout_ms}")
    return said.name


def identify(bench: Bench) -> str:
    """describes itself: own ids, and a document without faults"""
    said, document = bench.side().hello, bench.metadata()
    require(document.writer_id == said.writer_id, f"its document has the writer_id {document.writer_id}")
    instance = said.instance_id or "instance-1"
    require(document.instance_id == instance, f"its document has the instance_id {document.instance_id!r}")
    faults = validate_metadata(document)
    faults = [fault for fault in faults if instance not in fault or is_guid(instance)]
    require(not faults, f"its document is at fault: {'; '.join(faults)}")
    return f"{len(document.components)} components"


def identify_again(bench: Bench) -> str:
    """keeps no state in identify: the same answer again, amid a set too"""
    first = bench.metadata()
    side, session = bench.side(), bench.session()
    side.ok(E.PREPARE_BACKUP, session=session, components=[], volumes=bench.volumes())
    second = bench.metadata()
    side.ok(E.BACKUP_SHUTDOWN, session=session)
    same = [each.full_path for each in first.components] == [each.full_path for each in second.components]
    require(same, "identify amid a set names other components")
    return ""


def backup(bench: Bench) -> str:
    """takes part in a whole backup of all its components"""
    started = time.monotonic()
    events(bench, BACKUP, bench.side())
    return f"{(time.monotonic() - started) * 1000:.0f} ms"


def backup_by_volumes(bench: Bench) -> str:
    """takes part when volumes are copied without components"""
    events(bench, (*SET, E.BACKUP_SHUTDOWN), bench.side(), components=None, select_components=False)
    return ""


def nothing_chosen(bench: Bench) -> str:
    """takes it well when nothing of it was chosen"""
    events(bench, (E.PREPARE_BACKUP, E.BACKUP_SHUTDOWN), bench.side(), components=[])
    return ""


def restore(bench: Bench) -> str:
    """takes part in a restore that selects none of its components"""
    events(bench, (E.PRE_RESTORE, E.POST_RESTORE, E.BACKUP_SHUTDOWN), bench.side())
    return ""


def _abort_after(*kinds: WriterEvent) -> Point:
    def point(bench: Bench) -> str:
        side, session, chosen = bench.side(), bench.session(), bench.chosen()
        for kind in kinds:
            side.ok(kind, session=session, components=chosen, volumes=bench.volumes())
        side.ok(E.ABORT, session=session)
        side.ok(E.BACKUP_SHUTDOWN, session=session)
        events(bench, BACKUP, side)
        return ""

    after = kinds[-1].value if kinds else "nothing"
    point.__name__ = f"abort_after_{after.replace('-', '_')}"
    point.__doc__ = f"undoes everything at an abort after {after}, and takes part in the next set"
    return point


def abort_twice(bench: Bench) -> str:
    """takes an abort that comes twice"""
    side, session, chosen = bench.side(), bench.session(), bench.chosen()
    for kind in (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE):
        side.ok(kind, session=session, components=chosen, volumes=bench.volumes())
    side.ok(E.ABORT, session=session)
    side.ok(E.ABORT, session=session)
    return ""


def out_of_order(bench: Bench) -> str:
    """answers a thaw without a freeze, well or with a refusal, and goes on"""
    side = bench.side()
    refused = side.ask(E.THAW, session=bench.session()).veto
    events(bench, BACKUP, side)
    return "refused it" if refused else "took it"


def unknown_fields(bench: Bench) -> str:
    """ignores fields that it does not know"""
    side = bench.side()
    event = side.event(E.PREPARE_BACKUP, bench.session(), components=bench.chosen())
    raw = msgspec.msgpack.decode(encode(event)[LENGTH_BYTES:])
    raw["from_the_future"] = {"list": [1, None, 2.5, b"bytes"], "text": "x" * 40_000}
    side.send(framed(msgspec.msgpack.encode(raw)))
    side.reply(event.seq)
    return ""


def framed(body: bytes) -> bytes:
    """A frame around anything."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def unknown_kind(bench: Bench) -> str:
    """ignores a message of a kind that it does not know, or ends the connection and comes back"""
    side = bench.side()
    side.send(framed(msgspec.msgpack.encode({"kind": "banana", "seq": 1})))
    ended = side.closed.wait(QUIET_SECONDS)
    require(side.replies.empty(), "it answered")
    events(bench, BACKUP, bench.side())
    return "ended the connection" if ended else "ignored it"


def pieces(bench: Bench) -> str:
    """puts together what comes in pieces, and takes apart what comes at once"""
    side, chosen = bench.side(), bench.chosen()
    first = side.event(E.PREPARE_BACKUP, bench.session(), components=chosen)
    for byte in encode(first):
        side.send(bytes([byte]))
    side.reply(first.seq)
    both = [side.event(kind, first.session) for kind in (E.ABORT, E.BACKUP_SHUTDOWN)]
    side.send(b"".join(encode(each) for each in both))
    for each in both:
        side.reply(each.seq)
    return ""


def reconnect(bench: Bench) -> str:
    """comes back when the coordinator was restarted amid a set, released and without memory of it"""
    side, session, chosen = bench.side(), bench.session(), bench.chosen()
    for kind in (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE):
        side.ok(kind, session=session, components=chosen, volumes=bench.volumes())
    pid = bench.process.pid if bench.process else 0
    bench.coordinator.stop()
    time.sleep(0.5)
    bench.coordinator.start()
    again = bench.next_side(CLOSE_SECONDS * 2)
    events(bench, BACKUP, again)
    same = bench.process is not None and bench.process.pid == pid
    return "" if same else "its process ends: give it to a supervisor that starts it again"


def refused(bench: Bench) -> str:
    """takes a refusal without knocking all the time"""
    side = bench.side()
    bench.coordinator.refuse = Refused(Code.VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED, "BUSY", "come again")
    try:
        side.drop()
        before, end = bench.coordinator.hellos, time.monotonic() + QUIET_SECONDS
        while time.monotonic() < end:
            if not bench.running:
                break
            time.sleep(0.05)
        knocks = bench.coordinator.hellos - before
    finally:
        bench.coordinator.refuse = None
    require(knocks <= MOST_HELLOS, f"it knocked {knocks} times in {QUIET_SECONDS:g} seconds; wait between two tries")
    bench.next_side(CLOSE_SECONDS * 2)
    return f"{knocks} knocks in {QUIET_SECONDS:g} seconds" if bench.running else ""


def _malformed(name: str, what: str, data: bytes) -> Point:
    def point(bench: Bench) -> str:
        side = bench.side()
        side.send(data)
        require(side.closed.wait(CLOSE_SECONDS), f"it kept the connection open for {CLOSE_SECONDS:g} seconds")
        require(side.replies.empty(), "it answered")
        events(bench, BACKUP, bench.next_side(CLOSE_SECONDS * 2))
        return ""

    point.__name__ = name
    point.__doc__ = f"ends the connection at {what}, and comes back"
    return point


def window(bench: Bench) -> str:
    """lets go by itself when its freeze window is over, and says so to a late thaw"""
    side, session, chosen = bench.side(), bench.session(), bench.chosen()
    if side.hello.freeze_timeout_ms > LONGEST_WINDOW_MS:
        return f"not tried: its window is {side.hello.freeze_timeout_ms} ms; {LONGEST_WINDOW_MS} at most is waited for"
    for kind in (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE):
        side.ok(kind, session=session, components=chosen, volumes=bench.volumes())
    time.sleep(side.hello.freeze_timeout_ms / 1000 + LATE_SECONDS)
    answer = side.ask(E.THAW, session=session)
    late = answer.code == Code.VSS_E_WRITERERROR_TIMEOUT
    require(late, f"a thaw after its window was answered with {answer.code:#x} instead of the time-out")
    side.ok(E.ABORT, session=session)
    return ""


def terminate(bench: Bench) -> str:
    """ends at SIGTERM within seconds, also while it is frozen"""
    side, session, chosen = bench.side(), bench.session(), bench.chosen()
    for kind in (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE):
        side.ok(kind, session=session, components=chosen, volumes=bench.volumes())
    process = bench.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    end = time.monotonic() + END_SECONDS
    while process.poll() is None:
        require(time.monotonic() < end, f"it still runs {END_SECONDS:g} seconds after SIGTERM")
        time.sleep(0.05)
    return ""


POINTS: tuple[Point, ...] = (
    hello, identify, identify_again, backup, backup_by_volumes, nothing_chosen, restore,
    _abort_after(), _abort_after(E.PREPARE_BACKUP), _abort_after(*SET[:2]), _abort_after(*SET[:3]),
    _abort_after(*SET[:4]), abort_twice, out_of_order, unknown_fields, pieces, reconnect, refused,
    _malformed("malformed_garbage", "what is no MessagePack", framed(b"\xc1" * 16)),
    unknown_kind,
    _malformed("malformed_length", "a frame over the limit", b"\xff\xff\xff\xff" + b"x" * 64),
    window, terminate,
)  # fmt: skip
