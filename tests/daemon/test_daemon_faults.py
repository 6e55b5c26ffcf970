"""What goes wrong while a set is made: nothing stays frozen, everybody is told, and the sentence says who it was."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.asynchronous import AsyncOperation
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.create import create_set
from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Context, Level, SnapshotState, WriterState
from shadowset.vss.provider import ALLOWED_CODES

pytestmark = pytest.mark.host

LONG_HOLD = {"hold": {"delay": 30}}


def writes_within(place: str, seconds: float) -> bool:
    """Whether a write and its sync come through; a thread that stays stuck does not keep the test from ending."""
    done = threading.Event()

    def body() -> None:
        descriptor = os.open(f"{place}/probe", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"x")
        os.fsync(descriptor)
        os.close(descriptor)
        done.set()

    threading.Thread(target=body, daemon=True).start()
    return done.wait(seconds)


def hold_mark(host: Any, volume: str = "two") -> str:
    """Make the volume's hold last, so that the set stands still with everything frozen; the file that tells."""
    mark = f"{host.base}/held"
    host.faults(volume, hold={"delay": 30, "mark": mark})
    return mark


def failed(run: Any, code: Code, *words: str) -> VssError:
    with pytest.raises(VssError) as caught:
        run.make()
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in caught.value.message
    return caught.value


def nothing_left(host: Any, run: Any, *places: str) -> None:
    assert not any(map(host.is_frozen, places))
    assert not os.path.exists(host.paths.frozen)
    host.until(lambda: not host.guardians(), "the guardian to end")
    watcher = host.requester()
    assert watcher.call(rp.Query) == []
    record = watcher.call(rp.GetSet, run.set_id)
    assert record.status is SnapshotState.ABORTED and record.failure.code
    for volume in ("one", "two"):
        directory = host.storage(volume)
        if os.path.isdir(directory):
            host.until(lambda d=directory: not [n for n in os.listdir(d) if n.endswith(".img")], "pending copies to go")


@pytest.fixture
def pair(host: Any) -> tuple[str, str]:
    host.start("--limit", "frozen_ms=3000", "--limit", "hold_ms=2000")
    return host.volume("one", "ext4"), host.volume("two", "xfs")


# ---- the daemon and its guardian ----


def test_killed_while_frozen(host: Any, pair: Any, backup: Any) -> None:
    mark = hold_mark(host)
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    assert all(map(host.is_frozen, pair)) and os.path.exists(host.paths.frozen)
    host.kill()
    host.until(lambda: not any(map(host.is_frozen, pair)), "the guardian to thaw", 5)
    assert all(writes_within(place, 5) for place in pair)
    host.faults("two")
    host.start()
    assert not os.path.exists(host.paths.frozen)
    host.until(lambda: not host.guardians(), "the guardian to end")
    assert backup(["one", "two"], context=Context.FILE_SHARE_BACKUP).make().status is SnapshotState.CREATED


def test_stopped_while_frozen_is_thawed_at_the_deadline(host: Any, pair: Any, backup: Any) -> None:
    mark = hold_mark(host)
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    seq = run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    host.process.send_signal(signal.SIGSTOP)
    assert all(map(host.is_frozen, pair))
    host.until(lambda: not any(map(host.is_frozen, pair)), "the guardian to thaw", 10)
    host.process.send_signal(signal.SIGCONT)
    with pytest.raises(VssError) as caught:
        run.requester.result(seq, rp.DoSnapshotSet)
    assert caught.value.code == Code.VSS_E_HOLD_WRITES_TIMEOUT
    nothing_left(host, run, *pair)


def test_both_killed_is_thawed_by_the_next_daemon(host: Any, pair: Any, backup: Any) -> None:
    mark = hold_mark(host)
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    host.process.send_signal(signal.SIGSTOP)
    for pid in host.guardians():
        os.kill(pid, signal.SIGKILL)
    host.kill()
    assert all(map(host.is_frozen, pair))
    host.start()
    assert not any(map(host.is_frozen, pair)) and not os.path.exists(host.paths.frozen)
    names = [event.name for event in host.requester().call(rp.ListEvents)]
    assert names.count("thawed-leftover") == 2


def test_guardian_killed_fails_the_set(host: Any, pair: Any, backup: Any) -> None:
    mark = hold_mark(host)
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    seq = run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    os.kill(host.guardians()[0], signal.SIGKILL)
    with pytest.raises(VssError, match="guardian has died"):
        run.requester.result(seq, rp.DoSnapshotSet)
    nothing_left(host, run, *pair)


def test_frozen_by_somebody_else(host: Any, pair: Any, backup: Any) -> None:
    subprocess.run(["fsfreeze", "--freeze", pair[0]], check=True)
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    failed(run, Code.VSS_E_VOLUME_IN_USE, "somebody else", pair[0])
    time.sleep(0.1)
    assert host.is_frozen(pair[0]) and not host.is_frozen(pair[1])
    subprocess.run(["fsfreeze", "--unfreeze", pair[0]], check=True)
    nothing_left(host, run, *pair)


# ---- providers ----


def test_hold_takes_too_long(host: Any, pair: Any, backup: Any) -> None:
    host.faults("two", **LONG_HOLD)
    writer = host.writer()
    run = backup(["one", "two"]).prepare()
    failed(run, Code.VSS_E_HOLD_WRITES_TIMEOUT, "volume two", "hold")
    assert writer.names()[-1] == "abort"
    assert run.status()["Test writer"].state is WriterState.STABLE
    nothing_left(host, run, *pair)


@pytest.mark.parametrize("when", ["hold", "commit", "release"])
def test_provider_killed(host: Any, pair: Any, backup: Any, when: str) -> None:
    host.faults("two", **{when: {"kill": True}})
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    failed(run, Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "volume two")
    host.faults("two")
    host.until(lambda: host.provider_pid("two"), "the provider to be restarted")
    nothing_left(host, run, *pair)


def test_provider_killed_after_its_commit_only(host: Any, pair: Any, backup: Any) -> None:
    host.faults("one", commit={"kill_after": True})
    host.faults("two", commit={"delay": 0.5})
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    failed(run, Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "volume one")
    host.faults("one")
    host.until(lambda: host.provider_pid("one"), "the provider to be restarted")
    nothing_left(host, run, *pair)


@pytest.mark.vss(121)
def test_codes_of_providers_are_translated(host: Any, pair: Any, backup: Any) -> None:
    host.faults("two", commit={"code": int(Code.VSS_E_INSUFFICIENT_STORAGE)})
    failed(backup(["one", "two"], context=0x10), Code.VSS_E_INSUFFICIENT_STORAGE, "volume two", "commit")
    host.faults("two", commit={"code": int(Code.VSS_E_REBOOT_REQUIRED)})
    failed(backup(["one", "two"], context=0x10), Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "REBOOT_REQUIRED")


@pytest.mark.vss(121)
def test_every_code_of_a_provider_is_let_through_or_translated(host: Any, pair: Any, backup: Any) -> None:
    refused = {Code.VSS_E_NESTED_VOLUME_LIMIT, Code.VSS_E_WRITERERROR_RETRYABLE, Code.VSS_E_CORRUPT_XML_DOCUMENT}
    for code in sorted(ALLOWED_CODES | refused):
        host.faults("two", commit={"code": int(code)})
        expected = Code.VSS_E_UNEXPECTED_PROVIDER_ERROR if code in refused else code
        failed(backup(["one", "two"], context=0x10), expected, "volume two", "commit")
    host.faults("two")
    record = backup(["one", "two"], context=0x10).make()
    assert record.status is SnapshotState.CREATED


def test_a_late_commit_voids_the_set(host: Any, pair: Any, backup: Any) -> None:
    host.faults("two", commit={"delay": 2.5})
    run = backup(["one", "two"], context=0x10)
    failed(run, Code.VSS_E_HOLD_WRITES_TIMEOUT, "volume two")
    nothing_left(host, run, *pair)


def test_pending_copies_follow_the_catalogue_after_a_restart(host: Any, pair: Any, backup: Any) -> None:
    host.faults("two", finish={"kill": True})
    record = backup(["one", "two"], context=Context.NAS_ROLLBACK).make()
    host.kill()
    host.faults("two")
    host.start()
    with open(f"{host.storage('two')}/copies.json") as file:
        assert '"pending": false' in file.read()
    assert len(host.requester().call(rp.Query, "", record.set_id)) == 2


# ---- writers ----


def test_writer_hangs_in_freeze(host: Any, pair: Any, backup: Any) -> None:
    slow = host.writer("Slow", freeze_timeout_ms=300)
    other = host.writer("Other", Level.BACK_END)
    slow.on["freeze"] = lambda event: None
    run = backup(["one", "two"]).prepare()
    failed(run, Code.VSS_E_WRITERERROR_TIMEOUT, "Slow", "freeze", "300 ms")
    status = run.status()
    assert status["Slow"].state is WriterState.FAILED_AT_FREEZE
    assert status["Slow"].failure.code == Code.VSS_E_WRITERERROR_TIMEOUT
    assert "freeze" not in other.names() and other.names()[-1] == "abort" and slow.names()[-1] == "abort"
    nothing_left(host, run, *pair)
    run.requester.close()
    del slow.on["freeze"]
    assert backup(["one", "two"]).prepare().make().status is SnapshotState.CREATED, "a failed writer recovers"


def test_writer_disconnects_while_frozen(host: Any, pair: Any, backup: Any) -> None:
    mark = hold_mark(host)
    writer, other = host.writer("Gone"), host.writer("Stays")
    run = backup(["one", "two"]).prepare()
    seq = run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    writer.close()
    with pytest.raises(VssError, match=r"Gone.* closed its connection between freeze and thaw") as caught:
        run.requester.result(seq, rp.DoSnapshotSet)
    assert caught.value.code == Code.VSS_E_WRITER_NOT_RESPONDING
    assert not run.status()["Gone"].connected and run.status()["Gone"].state is WriterState.FAILED_AT_FREEZE
    assert other.names()[-1] == "abort"
    nothing_left(host, run, *pair)


@pytest.mark.vss(11)
@pytest.mark.parametrize("event", ["freeze", "thaw"])
def test_veto(host: Any, pair: Any, backup: Any, event: str) -> None:
    writer, other = host.writer("No"), host.writer("Other")
    code = Code.VSS_E_WRITERERROR_RETRYABLE
    writer.on[event] = lambda e: wp.Reply(e.seq, int(code), veto=True, application_code=7, message="not now")
    run = backup(["one", "two"]).prepare()
    error = failed(run, code, "not now", event)
    assert error.message.startswith("writer No [pid ") and "]: not now (" in error.message
    assert error.application_code == 7
    assert run.status()["No"].state.name == f"FAILED_AT_{event.upper()}"
    assert other.names()[-1] == "abort" and writer.names()[-1] == "abort"
    nothing_left(host, run, *pair)


@pytest.mark.vss(12)
@pytest.mark.parametrize("event", ["prepare-backup", "prepare-snapshot", "post-snapshot"])
def test_refusals_that_do_not_stop_the_set(host: Any, pair: Any, backup: Any, event: str) -> None:
    writer = host.writer("No")
    writer.on[event] = lambda e: wp.Reply(e.seq, int(Code.VSS_E_WRITERERROR_NONRETRYABLE), veto=True, message="no")
    run = backup(["one", "two"]).prepare()
    record = run.make()
    assert record.status is SnapshotState.CREATED
    assert record.writers[0].state.name == "FAILED_AT_" + event.upper().replace("-", "_")
    assert event == "post-snapshot" or "freeze" not in writer.names()


def test_a_reported_failure_lets_the_writer_go_on(host: Any, pair: Any, backup: Any) -> None:
    writer = host.writer("Partly")
    code = int(Code.VSS_E_WRITERERROR_PARTIAL_FAILURE)
    writer.on["prepare-snapshot"] = lambda e: wp.Reply(e.seq, code, message="one of five")
    run = backup(["one", "two"]).prepare()
    run.make()
    assert writer.names()[-1] == "post-snapshot"
    assert run.status()["Partly"].state is WriterState.FAILED_AT_PREPARE_SNAPSHOT


def test_answers_twice_and_late(host: Any, pair: Any, backup: Any) -> None:
    host.stop()
    host.start("--limit", "prepare_snapshot_ms=800")
    twice, late = host.writer("Twice"), host.writer("Late")

    def double(event: wp.Event) -> wp.Reply:
        twice.send(wp.Reply(event.seq))
        return wp.Reply(event.seq, int(Code.VSS_E_WRITERERROR_NONRETRYABLE), veto=True)

    twice.on = dict.fromkeys(("prepare-backup", "freeze", "thaw"), double)
    late.on["prepare-snapshot"] = lambda e: (time.sleep(1.2), wp.Reply(e.seq))[1]
    run = backup(["one", "two"]).prepare()
    assert run.make().status is SnapshotState.CREATED
    status = run.status()
    assert status["Twice"].state is WriterState.WAITING_FOR_BACKUP_COMPLETE
    assert status["Late"].state is WriterState.FAILED_AT_PREPARE_SNAPSHOT
    host.until(lambda: host.log.read_text().count("which nobody waits for") == 4, "the answers that come too late")
    assert run.status()["Late"].failure.code == Code.VSS_E_WRITERERROR_TIMEOUT


def test_window_of_a_front_end_writer_ends_while_the_next_level_freezes(host: Any, pair: Any, backup: Any) -> None:
    front = host.writer("Front", freeze_timeout_ms=300)
    back = host.writer("Back", Level.BACK_END)
    back.on["freeze"] = lambda e: (time.sleep(1.5), wp.Reply(e.seq))[1]
    run = backup(["one", "two"]).prepare()
    failed(run, Code.VSS_E_WRITERERROR_TIMEOUT, "Front", "window of 300 ms")
    assert run.status()["Front"].state is WriterState.FAILED_AT_FREEZE
    host.until(lambda: front.names()[-1] == back.names()[-1] == "abort", "the aborts")
    nothing_left(host, run, *pair)


@pytest.mark.vss(18)
def test_administrator_sets_the_window(host: Any, pair: Any, backup: Any) -> None:
    host.stop()
    guid = "01234567-0123-0123-0123-0123456789ab"
    host.start("--writer-window", f"{guid}=250")
    writer = host.writer("Slow", writer_id=guid)
    (listed,) = host.requester().call(rp.ListWriters)
    assert (listed.freeze_timeout_ms, listed.freeze_window_ms) == (60_000, 250)
    writer.on["freeze"] = lambda event: None
    failed(backup(["one", "two"]).prepare(), Code.VSS_E_WRITERERROR_TIMEOUT, "250 ms")


# ---- requesters ----


@pytest.mark.vss(10, 21)
@pytest.mark.parametrize(
    "phase",
    [
        "gathered",
        "started",
        "prepared",
        "prepare-snapshot",
        "freeze",
        "hold",
        "commit",
        "post-snapshot",
        "finish",
        "made",
    ],
)
def test_requester_gone(host: Any, pair: Any, backup: Any, phase: str) -> None:
    writer = host.writer()
    mark = f"{host.base}/mark"
    if phase in ("hold", "commit", "finish"):
        host.faults("two", **{phase: {"delay": 1, "mark": mark}})
    elif "snapshot" in phase or phase == "freeze":
        writer.on[phase] = lambda e: (Path(mark).touch(), time.sleep(0.5), wp.Reply(e.seq))[2]
    if phase == "gathered":
        requester = host.requester()
        requester.call(rp.InitializeForBackup)
        requester.call(rp.GatherWriterMetadata)
    else:
        run = backup(["one", "two"])
        requester = run.requester
        if phase != "started":
            run.prepare()
        if phase == "made":
            run.make()
        elif phase not in ("started", "prepared"):
            requester.send(rp.DoSnapshotSet)
            host.until(lambda: os.path.exists(mark), phase)
    requester.close()
    watcher = host.requester()
    host.until(lambda: not _sessions(host), "the session to end")
    assert not any(map(host.is_frozen, pair)) and watcher.call(rp.Query) == []
    if phase not in ("gathered", "started"):
        host.until(lambda: writer.names()[-1] == "backup-shutdown", "backup-shutdown")
    host.faults("two")
    writer.on.clear()
    assert backup(["one", "two"]).prepare().make().status is SnapshotState.CREATED


def _sessions(host: Any) -> int:
    requester = host.requester(hello=False)
    count = requester.call(rp.ServiceHello).sessions
    requester.close()
    return int(count)


@pytest.mark.parametrize("how", ["cancel", "abort"])
def test_cancel(host: Any, pair: Any, backup: Any, how: str) -> None:
    mark = hold_mark(host)
    writer = host.writer()
    run = backup(["one", "two"]).prepare()
    seq = run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    if how == "cancel":
        run.requester.call(rp.Cancel, seq)
    else:
        run.requester.call(rp.AbortBackup)
    with pytest.raises(VssError) as caught:
        run.requester.result(seq, rp.DoSnapshotSet)
    assert caught.value.code == Code.VSS_S_ASYNC_CANCELLED
    assert writer.names()[-1] == "abort"
    nothing_left(host, run, *pair)


def test_interrupted_after_the_point_of_no_return(host: Any, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"{host.base}/finishing"
    host.faults("two", finish={"delay": 1, "mark": mark})

    def interrupt(operation: Any) -> None:
        host.until(lambda: os.path.exists(mark), "the set to be recorded")
        raise KeyboardInterrupt

    with BackupComponents(host.paths) as calls:
        monkeypatch.setattr(AsyncOperation, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            create_set(calls, ["one", "two"], Context.NAS_ROLLBACK)
    assert host.requester().call(rp.Query) == []
    assert "set-created" in [event.name for event in host.requester().call(rp.ListEvents)]


def test_sigterm_while_frozen(host: Any, pair: Any, backup: Any) -> None:
    mark = hold_mark(host)
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    pid = int(Path(f"{host.paths.runtime}/shadowsetd.lock").read_text())
    assert pid == host.process.pid
    host.stop()
    assert not any(map(host.is_frozen, pair)) and not os.path.exists(host.paths.frozen)
    host.faults("two")
    host.start()
    nothing_left(host, run, *pair)


def test_second_instance_is_refused(host: Any) -> None:
    host.start()
    second = host.spawn()
    assert second.wait(20) == 1
    assert f"pid {host.process.pid}" in host.log.read_text()
    assert host.answers()


# ---- storage that stands still ----


@pytest.fixture
def stuck(host: Any) -> Any:
    """A volume in an image file on a file system that can be frozen from outside: place and a way to stop it."""
    host.start("--limit", "flush_ms=1500", "--limit", "frozen_ms=1000")
    below = host.base / "mnt" / "below"
    os.makedirs(below)
    image = host.image("below")
    os.truncate(image, 64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, str(below)], check=True)
    with open(below / "deep.img", "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(below / "deep.img")], check=True)
    requester = host.requester()
    requester.call(rp.VolumeAdd, "one", str(below / "deep.img"), host.storage("one"))
    device = requester.call(rp.VolumeAttach, "one").device
    host.loops.append(device)
    place = str(host.base / "mnt" / "deep")
    os.makedirs(place)
    subprocess.run(["mount", device, place], check=True)
    stopped = []

    def stop() -> None:
        with open(f"{place}/dirty", "wb") as file:
            file.write(os.urandom(1 << 20))
        subprocess.run(["fsfreeze", "--freeze", str(below)], check=True)
        stopped.append(below)

    def go() -> None:
        while stopped:
            subprocess.run(["fsfreeze", "--unfreeze", str(stopped.pop())], check=True)

    yield place, stop, go
    go()
    subprocess.run(["umount", place], check=True)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_flush_takes_too_long(host: Any, stuck: Any, backup: Any) -> None:
    place, stop, go = stuck
    run = backup(["one"], context=Context.FILE_SHARE_BACKUP)
    stop()
    failed(run, Code.VSS_E_FLUSH_WRITES_TIMEOUT, "1500 ms")
    go()
    assert writes_within(place, 10)
    nothing_left(host, run, place)


def test_freezing_takes_too_long(host: Any, stuck: Any, backup: Any) -> None:
    place, stop, go = stuck
    writer = host.writer()
    writer.on["freeze"] = lambda e: (stop(), wp.Reply(e.seq))[1]
    run = backup(["one"]).prepare()
    threading.Timer(3, go).start()
    failed(run, Code.VSS_E_FLUSH_WRITES_TIMEOUT, place)
    assert writes_within(place, 10)
    assert writer.names()[-1] == "abort"
    nothing_left(host, run, place)
