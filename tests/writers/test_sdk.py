"""The writer library against a coordinator that behaves, misbehaves, and dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.vss.wire import encode
from shadowset.vss.writer_protocol import EventVolume, Refused
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer

E = WriterEvent
CYCLE = (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE, E.THAW, E.POST_SNAPSHOT, E.BACKUP_COMPLETE, E.BACKUP_SHUTDOWN)


class Recorder(Writer):
    """Writes down which handlers ran; ``plan`` says what else a handler does."""

    writer_id = "11111111-2222-3333-4444-555555555555"
    name = "Recorder"
    freeze_timeout_ms = 10_000

    def __init__(self, socket_path: str, **plan: Any) -> None:
        super().__init__(socket_path)
        self.plan = plan
        self.calls: list[str] = []
        self.reasons: list[str] = []
        self.threads: set[str] = set()
        self.aborted = threading.Event()

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.add_component(ComponentType.FILEGROUP, "files").add_files("/srv/files", "*")
        self.plan.get("identify", lambda: None)()

    def _note(self, event: CurrentEvent) -> None:
        self.calls.append(event.event.value)
        self.threads.add(threading.current_thread().name)
        if event.event is E.ABORT:
            self.reasons.append(event.reason)
            self.aborted.set()
        action = self.plan.get(event.event.name.lower())
        if action is not None:
            action(event)

    on_prepare_backup = on_prepare_snapshot = on_freeze = on_thaw = on_post_snapshot = on_abort = _note
    on_backup_complete = on_backup_shutdown = on_pre_restore = on_post_restore = _note


class Factory:
    def __init__(self, path: str) -> None:
        self.path = path
        self.writers: list[Recorder] = []

    def __call__(self, freeze_timeout_ms: int = 10_000, **plan: Any) -> Recorder:
        writer = Recorder(self.path, **plan)
        writer.freeze_timeout_ms = freeze_timeout_ms
        writer.start()
        self.writers.append(writer)
        return writer


@pytest.fixture
def make(coordinator: Any) -> Iterator[Factory]:
    factory = Factory(coordinator.path)
    yield factory
    for writer in factory.writers:
        writer.stop()
        assert not writer.running


def until(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_a_normal_cycle_calls_each_handler_once_in_order_on_one_thread(coordinator: Any, make: Factory) -> None:
    writer = make()
    side = coordinator.writer()
    assert side.hello.freeze_timeout_ms == 10_000
    metadata = side.ok(E.IDENTIFY).metadata
    assert metadata is not None
    assert metadata.writer_id == writer.writer_id
    assert metadata.instance_id == "instance-1"
    assert metadata.components[0].files[0].path == "/srv/files"
    for event in CYCLE:
        side.ok(event)
    for event in (E.PRE_RESTORE, E.POST_RESTORE):
        side.ok(event)
    assert writer.calls == [*(event.value for event in CYCLE), "pre-restore", "post-restore"]
    assert writer.threads == {"Recorder handlers"}


def test_changed_components_go_back_and_unchanged_ones_do_not(coordinator: Any, make: Factory) -> None:
    def stamp(event: CurrentEvent) -> None:
        component = event.component("", "files")
        assert component is not None
        component.backup_metadata = "remember this"

    make(post_snapshot=stamp)
    side = coordinator.writer()
    components = [Component(ComponentType.FILEGROUP, "", "files"), Component(ComponentType.FILEGROUP, "", "other")]
    assert side.ok(E.PREPARE_BACKUP, components=components).components is None
    answer = side.ok(E.POST_SNAPSHOT, components=components)
    assert [component.backup_metadata for component in answer.components] == ["remember this", ""]


def test_an_error_is_a_veto_with_its_code(coordinator: Any, make: Factory) -> None:
    def refuse(_event: CurrentEvent) -> None:
        raise VssError(Code.VSS_E_WRITERERROR_OUTOFRESOURCES, "no memory for the lock; free some", 12)

    make(freeze=refuse)
    answer = coordinator.writer().ask(E.FREEZE)
    assert (answer.veto, answer.code, answer.application_code) == (True, Code.VSS_E_WRITERERROR_OUTOFRESOURCES, 12)
    assert answer.message == "no memory for the lock; free some"


def test_any_other_exception_is_a_veto_that_names_it(coordinator: Any, make: Factory) -> None:
    make(prepare_snapshot=lambda event: 1 // 0, identify=lambda: {}[1])
    side = coordinator.writer()
    answer = side.ask(E.PREPARE_SNAPSHOT)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_NONRETRYABLE)
    assert "prepare-snapshot of the writer Recorder failed with ZeroDivisionError" in answer.message
    answer = side.ask(E.IDENTIFY)
    assert answer.veto
    assert answer.metadata is None


def test_a_failure_can_be_reported_without_a_veto(coordinator: Any, make: Factory) -> None:
    make(freeze=lambda event: event.set_failure(Code.VSS_E_WRITERERROR_RETRYABLE, "half of it", 7))
    side = coordinator.writer()
    answer = side.ask(E.FREEZE)
    assert (answer.veto, answer.code, answer.application_code) == (False, Code.VSS_E_WRITERERROR_RETRYABLE, 7)
    side.ok(E.THAW)


def test_progress_and_log_reach_the_coordinator(coordinator: Any, make: Factory) -> None:
    def work(event: CurrentEvent) -> None:
        event.progress(1, 2, "half")
        event.log("a line")

    make(prepare_backup=work)
    side = coordinator.writer()
    side.ok(E.PREPARE_BACKUP)
    assert [type(note).__name__ for note in side.notes] == ["Progress", "Log"]


def test_a_path_is_affected_by_the_volume_it_lies_on(coordinator: Any, make: Factory) -> None:
    seen: dict[str, bool] = {}

    def look(event: CurrentEvent) -> None:
        seen.update({path: event.is_path_affected(path) for path in ("/data/x", "/database", "/data")})

    make(prepare_snapshot=look)
    coordinator.writer().ok(E.PREPARE_SNAPSHOT, volumes=[EventVolume("data", ["/data"])])
    assert seen == {"/data/x": True, "/database": False, "/data": True}


def test_the_second_abort_finds_nothing_to_undo(coordinator: Any, make: Factory) -> None:
    writer = make()
    side = coordinator.writer()
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE)
    side.ok(E.ABORT)
    side.ok(E.ABORT)
    assert writer.calls.count("abort") == 1
    assert writer.reasons == [""]
    for event in CYCLE:
        side.ok(event)


def test_abort_of_another_session_does_not_release_this_one(coordinator: Any, make: Factory) -> None:
    writer = make()
    side = coordinator.writer()
    side.ok(E.FREEZE)
    side.ok(E.ABORT, session="other")
    answer = side.ask(E.FREEZE, session="other")
    assert (answer.veto, answer.code) == (True, Code.VSS_E_BAD_STATE)
    assert writer.calls == ["freeze"]
    side.ok(E.THAW)


def test_thaw_without_freeze_is_out_of_order(coordinator: Any, make: Factory) -> None:
    writer = make()
    answer = coordinator.writer().ask(E.THAW)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_BAD_STATE)
    assert writer.calls == []


def test_the_window_expires_and_the_late_thaw_is_a_timeout(coordinator: Any, make: Factory) -> None:
    writer = make(freeze_timeout_ms=150)
    side = coordinator.writer()
    side.ok(E.FREEZE)
    assert writer.aborted.wait(5)
    assert "window of 150 ms expired" in writer.reasons[0]
    answer = side.ask(E.THAW)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_TIMEOUT)
    side.ok(E.ABORT)
    assert writer.calls == ["freeze", "abort"]
    for event in CYCLE:
        side.ok(event)


def test_a_lost_connection_releases_the_application_at_once(coordinator: Any, make: Factory) -> None:
    writer = make()
    side = coordinator.writer()
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE)
    side.drop()
    assert writer.aborted.wait(5), "the application stays frozen"
    assert "connection to the coordinator was lost" in writer.reasons[0]
    again = coordinator.writer()
    assert again.hello.instance_id == "instance-1"
    answer = again.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_TIMEOUT
    assert writer.calls == ["prepare-snapshot", "freeze", "abort"]


def test_a_connection_lost_before_freeze_undoes_what_was_prepared(coordinator: Any, make: Factory) -> None:
    writer = make()
    side = coordinator.writer()
    side.ok(E.PREPARE_SNAPSHOT)
    side.drop()
    assert writer.aborted.wait(5)
    assert writer.calls == ["prepare-snapshot", "abort"]


def test_a_connection_lost_when_idle_calls_nothing(coordinator: Any, make: Factory) -> None:
    writer = make()
    side = coordinator.writer()
    for event in CYCLE:
        side.ok(event)
    side.drop()
    coordinator.writer().ok(E.IDENTIFY)
    assert "abort" not in writer.calls


def test_the_writer_finds_a_restarted_coordinator(coordinator: Any, make: Factory) -> None:
    writer = make()
    coordinator.writer().ok(E.IDENTIFY)
    coordinator.stop()
    until(lambda: not writer.connected)
    time.sleep(0.3)
    coordinator.start()
    side = coordinator.writer()
    for event in CYCLE:
        side.ok(event)


def test_a_frame_that_is_no_message_ends_the_connection_only(coordinator: Any, make: Factory) -> None:
    make()
    side = coordinator.writer()
    side._socket.sendall(b"\x00\x00\x00\x03abc")
    coordinator.writer().ok(E.IDENTIFY)


def test_a_refused_writer_stops_and_says_why(coordinator: Any, make: Factory) -> None:
    coordinator.refuse = Refused(Code.E_ACCESSDENIED, "E_ACCESSDENIED", "the user nobody may not be a writer")
    writer = make()
    until(lambda: not writer.running)
    assert writer.failure is not None
    assert writer.failure.code == Code.E_ACCESSDENIED


def test_stopping_while_frozen_releases_the_application(coordinator: Any, make: Factory) -> None:
    writer = make()
    coordinator.writer().ok(E.FREEZE)
    writer.stop()
    assert writer.calls == ["freeze", "abort"]
    assert writer.reasons == ["the writer is stopping"]


def test_a_patient_handler_sees_that_its_time_is_over(coordinator: Any, make: Factory) -> None:
    def wait(event: CurrentEvent) -> None:
        while not event.wait(5.0):
            pass

    writer = make(freeze_timeout_ms=100, freeze=wait)
    answer = coordinator.writer().ask(E.FREEZE)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_TIMEOUT)
    assert writer.calls == ["freeze", "abort"]


def test_abort_reaches_a_handler_that_is_running(coordinator: Any, make: Factory) -> None:
    begun = threading.Event()

    def wait(event: CurrentEvent) -> None:
        begun.set()
        while not event.wait(5.0):
            pass

    writer = make(freeze=wait)
    side = coordinator.writer()
    freeze = side.post(E.FREEZE)
    assert begun.wait(5)
    abort = side.post(E.ABORT)
    side.reply(freeze, 2.0)
    assert side.reply(abort, 2.0).code == 0
    assert writer.calls == ["freeze", "abort"]


def test_a_hanging_freeze_does_not_keep_the_application_frozen(coordinator: Any, make: Factory) -> None:
    """The handler ignores that its time is over: abort is called beside it, and once more when it comes back."""
    let_go = threading.Event()
    writer = make(freeze_timeout_ms=100, freeze=lambda event: let_go.wait(20))
    side = coordinator.writer()
    freeze = side.post(E.FREEZE)
    assert writer.aborted.wait(5), "the application stays frozen"
    assert writer.calls == ["freeze", "abort"]
    let_go.set()
    answer = side.reply(freeze)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_TIMEOUT)
    assert writer.calls == ["freeze", "abort", "abort"]


def test_a_hanging_identify_does_not_keep_the_application_frozen(coordinator: Any, make: Factory) -> None:
    let_go = threading.Event()
    writer = make(freeze_timeout_ms=300, identify=lambda: let_go.wait(20))
    side = coordinator.writer()
    side.ok(E.FREEZE)
    side.post(E.IDENTIFY, session="curious")
    assert writer.aborted.wait(5), "the application stays frozen"
    let_go.set()
    assert side.replies.get(timeout=5).metadata is not None
    assert side.ask(E.THAW).code == Code.VSS_E_WRITERERROR_TIMEOUT
    assert writer.calls == ["freeze", "abort"]


def test_events_cut_into_bytes_arrive_whole(coordinator: Any, make: Factory) -> None:
    from shadowset.vss.writer_protocol import Event

    make()
    side = coordinator.writer()
    for byte in encode(Event(77, E.PREPARE_BACKUP, "session", 1000)):
        side._socket.sendall(bytes([byte]))
    assert side.reply(77).code == 0


def test_identify_is_answered_beside_a_long_handler_where_that_is_safe(coordinator: Any, make: Factory) -> None:
    going_on = threading.Event()

    def long(_event: CurrentEvent) -> None:
        going_on.wait(30)

    class Concurrent(Recorder):
        identify_aside = True

    writer = Concurrent(coordinator.path, prepare_snapshot=long)
    make.writers.append(writer)
    writer.start()
    side = coordinator.writer()
    side.ok(E.PREPARE_BACKUP)
    slow = side.post(E.PREPARE_SNAPSHOT)
    until(lambda: writer.calls[-1] == "prepare-snapshot")
    metadata = side.ok(E.IDENTIFY).metadata
    assert metadata is not None and metadata.components
    going_on.set()
    assert side.reply(slow).code == 0
