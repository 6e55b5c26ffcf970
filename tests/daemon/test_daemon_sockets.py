"""Both sockets against clients that break the rules, with another client that must not notice."""

from __future__ import annotations

import os
import random
import socket
import stat
import time
import uuid
from typing import Any

import msgspec
import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType, ComponentType, FileRestoreStatus, RestoreType, WriterState
from shadowset.vss.wire import MAX_FRAME, FrameDecoder, encode

pytestmark = pytest.mark.host


def frames(seed: int) -> bytes:
    """Something that begins like a conversation and goes wrong."""
    chance = random.Random(seed)
    good = [
        encode(rp.ServiceHello(1)),
        encode(wp.Hello(str(uuid.uuid4()), "fuzz")),
        encode(rp.Query(2)),
        encode(wp.Reply(3)),
        encode(rp.InitializeForBackup(3)),
    ]
    data = bytearray(b"".join(chance.choice(good) for _ in range(chance.randrange(1, 5))))
    match chance.randrange(4):
        case 0:
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        case 1:
            data += (MAX_FRAME + 1).to_bytes(4, "big") + b"x" * 100
        case 2:
            body = msgspec.msgpack.encode({"kind": chance.choice(["hello", "query", "cancel", "nonsense"]), "seq": "x"})
            data += len(body).to_bytes(4, "big") + body
        case 3:
            data += chance.randbytes(chance.randrange(1, 300))
    return bytes(data)


def drain(path: str, data: bytes) -> bytes:
    """Send, say goodbye, and read what comes until the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = b""
        try:
            while more := client.recv(65536):
                answer += more
        except ConnectionError:
            pass
        return answer


@pytest.mark.parametrize("which", ["requester_socket", "writer_socket"])
def test_broken_frames_hurt_only_who_sends_them(host: Any, which: str) -> None:
    host.start()
    requester, writer = host.requester(), host.writer("Calm")
    requester.call(rp.InitializeForBackup)
    for seed in range(80):
        drain(getattr(host.paths, which), frames(seed))
    assert [each.name for each in requester.call(rp.GatherWriterMetadata)] == ["Calm"]
    assert writer.names() == ["identify"]
    host.until(lambda: [each.name for each in requester.call(rp.ListWriters)] == ["Calm"], "the others to be gone")
    assert "Traceback" not in host.log.read_text()


def test_a_bad_frame_is_answered_with_a_sentence(host: Any) -> None:
    host.start()
    bad = b"\xff\xff\xff\xff"
    (answer,) = FrameDecoder[Any](rp.FromCoordinator).feed(drain(host.paths.requester_socket, bad))
    assert answer.seq == 0 and "over the limit" in answer.message
    (answer,) = FrameDecoder[Any](wp.ToWriter).feed(drain(host.paths.writer_socket, bad))
    assert isinstance(answer, wp.Refused) and "over the limit" in answer.message


def test_clients_that_say_nothing_are_let_go(host: Any) -> None:
    host.start("--limit", "hello_ms=300")
    for path in (host.paths.requester_socket, host.paths.writer_socket):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            assert b"hello" in client.recv(4096)
            assert client.recv(4096) == b""


def test_a_client_that_does_not_read_harms_nobody(host: Any) -> None:
    host.start()
    deaf = host.requester()
    deaf.socket.setblocking(False)
    call = encode(rp.ListEvents(9))
    with pytest.raises((BlockingIOError, ConnectionError)):
        for _ in range(1_000_000):
            deaf.socket.sendall(call)
    started = time.monotonic()
    host.requester().call(rp.ListEvents)
    assert time.monotonic() - started < 10


@pytest.mark.vss(31)
def test_hello_comes_first_and_speaks_our_protocol(host: Any) -> None:
    host.start()
    requester = host.requester(hello=False)
    with pytest.raises(VssError, match="must be hello"):
        requester.call(rp.Query)
    with pytest.raises(VssError, match="protocol 99"):
        requester.call(rp.ServiceHello, "", 99)
    assert requester.call(rp.ServiceHello).pid == host.process.pid


def test_hellos_of_writers(host: Any) -> None:
    host.start()
    guid = str(uuid.uuid4())
    first = host.writer("One", writer_id="{" + guid.upper() + "}", instance_id="fixed")
    assert isinstance(first.first, wp.Welcome) and first.instance_id == "fixed"
    again = host.writer("Two", writer_id=guid, instance_id="fixed").first
    assert again.code == Code.VSS_E_WRITER_ALREADY_SUBSCRIBED and again.name == "VSS_E_WRITER_ALREADY_SUBSCRIBED"
    assert isinstance(host.writer("Three", writer_id=guid).first, wp.Welcome)
    assert "GUID" in host.writer("Four", writer_id="no").first.message
    assert "protocol" in host.writer("Five", protocol=2).first.message
    assert "freeze" in host.writer("Six", freeze_timeout_ms=0).first.message
    writers = host.requester().call(rp.ListWriters)
    assert {each.name for each in writers} == {"One", "Three"}
    assert {(each.pid, each.uid) for each in writers} == {(os.getpid(), 0)}
    first.close()
    host.until(lambda: len(host.requester().call(rp.ListWriters)) == 1, "the writer to be gone")
    assert isinstance(host.writer("Two", writer_id=guid, instance_id="fixed").first, wp.Welcome)


def test_the_sockets_are_closed_to_others(host: Any) -> None:
    host.start()
    for path in (host.paths.requester_socket, host.paths.writer_socket):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


@pytest.mark.vss(3)
def test_writers_that_fail_identify_are_missing(host: Any) -> None:
    host.start("--limit", "identify_ms=300")
    good, mute, empty, wrong, vetoing = (host.writer(name) for name in ("Good", "Mute", "Empty", "Wrong", "Veto"))
    mute.on["identify"] = lambda e: None
    empty.on["identify"] = lambda e: wp.Reply(e.seq)
    wrong.on["identify"] = lambda e: wp.Reply(e.seq, metadata=good.metadata())
    vetoing.on["identify"] = lambda e: wp.Reply(e.seq, veto=True, metadata=vetoing.metadata())
    requester = host.requester()
    requester.call(rp.InitializeForBackup)
    assert [each.name for each in requester.call(rp.GatherWriterMetadata)] == ["Good"]
    states = {each.name: each.state for each in requester.call(rp.ListWriters)}
    assert states.pop("Good") is WriterState.STABLE
    assert set(states.values()) == {WriterState.FAILED_AT_IDENTIFY}


@pytest.mark.vss(4)
def test_classes_and_instances_can_be_left_out(host: Any) -> None:
    host.start()
    one, two, three = (host.writer(name) for name in ("One", "Two", "Three"))
    for kind, argument, left in (
        (rp.EnableWriterClasses, [one.writer_id.upper(), two.writer_id], {"One", "Two"}),
        (rp.DisableWriterClasses, [three.writer_id], {"One", "Two"}),
        (rp.DisableWriterInstances, [one.instance_id, two.instance_id], {"Three"}),
    ):
        requester = host.requester()
        requester.call(rp.InitializeForBackup)
        requester.call(kind, argument)
        assert {each.name for each in requester.call(rp.GatherWriterMetadata)} == left


@pytest.mark.vss(25)
def test_sessions_are_limited(host: Any) -> None:
    host.start("--limit", "sessions=2")
    clients = [host.requester() for _ in range(3)]
    for client in clients[:2]:
        client.call(rp.InitializeForBackup)
    with pytest.raises(VssError) as caught:
        clients[2].call(rp.InitializeForBackup)
    assert caught.value.code == Code.VSS_E_WRITER_STATUS_NOT_AVAILABLE
    clients[0].close()
    host.until(lambda: host.requester(hello=False).call(rp.ServiceHello).sessions == 1, "the session to end")
    clients[2].call(rp.InitializeForBackup)


def test_contexts(host: Any) -> None:
    host.start()
    for context in (0xFFFFFFFF, 0x01, 0x1D | 0x40000, 0x80000, 1 << 40):
        requester = host.requester()
        requester.call(rp.InitializeForBackup)
        with pytest.raises(VssError) as caught:
            requester.call(rp.SetContext, context)
        assert caught.value.code == Code.VSS_E_UNSUPPORTED_CONTEXT
        requester.call(rp.SetContext, 0x1D)


# ---- restore ----


def saved(host: Any, writer: Any) -> str:
    requester = host.requester()
    requester.call(rp.InitializeForBackup)
    requester.call(rp.SetBackupState, True, False, BackupType.FULL)
    requester.call(rp.GatherWriterMetadata)
    component = (writer.writer_id, writer.instance_id, ComponentType.FILEGROUP, "", "data")
    requester.call(rp.AddComponent, *component)
    with pytest.raises(VssError) as caught:
        requester.call(rp.AddComponent, *component)
    assert caught.value.code == Code.VSS_E_OBJECT_ALREADY_EXISTS
    requester.call(rp.StartSnapshotSet)
    requester.call(rp.SetBackupOptions, *component, '"x"="y"')
    requester.call(rp.PrepareForBackup)
    requester.call(rp.DoSnapshotSet)
    xml = requester.call(rp.SaveAsXml)
    requester.close()
    return str(xml)


def stamped(event: wp.Event) -> wp.Reply:
    assert event.components is not None and event.components[0].backup_options == '"x"="y"'
    component = event.components[0]
    component.backup_stamp = "stamp-1"
    return wp.Reply(event.seq, components=[component])


@pytest.mark.vss(69, 79)
def test_restore(host: Any) -> None:
    host.start()
    writer, idle = host.writer("Restored"), host.writer("Idle")
    writer.on["prepare-backup"] = stamped
    xml = saved(host, writer)
    assert "stamp-1" in xml
    guid = writer.writer_id
    writer.close()
    host.until(lambda: len(host.requester().call(rp.ListWriters)) == 1, "the writer to be gone")

    requester = host.requester()
    requester.call(rp.InitializeForRestore, xml)
    requester.call(rp.SetRestoreState, RestoreType.BY_COPY)
    requester.call(rp.GatherWriterMetadata)
    component = (guid, "", ComponentType.FILEGROUP, "", "data")
    with pytest.raises(VssError, match="Restored does not run") as caught:
        requester.call(rp.SetSelectedForRestore, *component)
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND
    requester.close()

    writer = host.writer("Restored", writer_id=guid)
    for first in ('"a"="b"', ""):  # "" is also a value that may be given only once
        requester = host.requester()
        requester.call(rp.InitializeForRestore, xml)
        requester.call(rp.GatherWriterMetadata)
        requester.call(rp.SetSelectedForRestore, *component)
        requester.call(rp.SetRestoreOptions, *component, first)
        with pytest.raises(VssError, match="before in this session") as caught:
            requester.call(rp.SetRestoreOptions, *component, '"c"="d"')
        assert caught.value.code == Code.VSS_E_OBJECT_ALREADY_EXISTS
    requester = host.requester()
    requester.call(rp.InitializeForRestore, xml.replace("<COMPONENT ", '<COMPONENT restoreOptions="earlier" ', 1))
    requester.call(rp.GatherWriterMetadata)
    requester.call(rp.SetSelectedForRestore, *component)
    requester.call(rp.SetRestoreOptions, *component, '"a"="b"')
    requester.call(rp.PreRestore)
    requester.call(rp.SetFileRestoreStatus, *component, FileRestoreStatus.ALL)
    requester.call(rp.AddAlternativeLocationMapping, *component, "/data", "*", False, "/elsewhere")
    requester.call(rp.PostRestore)
    assert writer.names() == ["identify", "identify", "identify", "pre-restore", "post-restore"]
    told = writer.seen[-1].components[0]
    assert told.file_restore_status is FileRestoreStatus.ALL and told.restore_options == '"a"="b"'
    assert told.backup_stamp == "stamp-1" and told.alternate_location_mappings[0].alternate_path == "/elsewhere"
    assert "pre-restore" not in idle.names()
    assert requester.call(rp.GetDocument).writers[0].components[0].selected_for_restore


def test_documents_that_are_none(host: Any) -> None:
    host.start()
    requester = host.requester()
    for text in ("", "<a/>", "<BACKUP_COMPONENTS"):
        with pytest.raises(VssError) as caught:
            requester.call(rp.InitializeForRestore, text)
        assert "XML_DOCUMENT" in str(caught.value)


def test_volume_names_that_are_none(host: Any, backup: Any) -> None:
    host.start()
    run = backup([], context=0x10)
    for volume in ("nowhere", "/nowhere", "/proc", "\x00", "x" * 5000, "/" + "x" * 5000):
        with pytest.raises(VssError):
            run.requester.call(rp.AddToSnapshotSet, volume)
    assert run.requester.call(rp.IsVolumeSupported, "/") is False
    with pytest.raises(VssError) as caught:
        run.requester.call(rp.IsVolumeSupported, "/", str(uuid.uuid4()))
    assert caught.value.code == Code.VSS_E_PROVIDER_NOT_REGISTERED
    assert "Traceback" not in host.log.read_text()


def test_the_service_manager_is_told(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(host.base / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(60)
        with monkeypatch.context() as environment:
            environment.setenv("NOTIFY_SOCKET", address)
            environment.setenv("WATCHDOG_USEC", "400000")
            host.start()
        assert [channel.recv(100) for _ in range(4)] == [b"READY=1", *[b"WATCHDOG=1"] * 3]
        host.stop()
        while (told := channel.recv(100)) == b"WATCHDOG=1":
            pass
        assert told == b"STOPPING=1"
