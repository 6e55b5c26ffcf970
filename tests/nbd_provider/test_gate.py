"""Hold, commit and release: the gate never stays closed, and a late commit makes no copy."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import uuid4

import pytest

from shadowset.nbd_provider.volume import Gate
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code


@pytest.fixture
def client(provider: Any, nbd_module: Any) -> Any:
    handle = nbd_module.NBD()
    handle.connect_uri(provider.uri)
    return handle


def commit(control: Any) -> m.FromProvider:
    answer: m.FromProvider = control.call(m.Commit, copy_id=str(uuid4()), set_id=str(uuid4()), created_ns=1)
    return answer


def write_in_thread(client: Any, data: bytes, offset: int) -> tuple[threading.Thread, list[float]]:
    finished: list[float] = []

    def write() -> None:
        client.pwrite(data, offset)
        finished.append(time.monotonic())

    thread = threading.Thread(target=write)
    thread.start()
    return thread, finished


def test_writes_wait_reads_go_on(provider: Any, client: Any, nbd_module: Any) -> None:
    control = provider.control()
    reader = nbd_module.NBD()
    reader.connect_uri(provider.uri)
    control.value(m.Hold)
    thread, finished = write_in_thread(client, b"late" * 1024, 0)
    time.sleep(0.2)
    assert reader.pread(4, 0) == bytes(4)
    assert not finished
    released = control.value(m.Release)
    thread.join(10)
    assert finished and released["waited"] == 1 and released["hold_ms"] >= 200
    assert reader.pread(4, 0) == b"late"


def test_held_writes_belong_to_the_time_after_the_cut(provider: Any, client: Any, nbd_module: Any) -> None:
    control = provider.control()
    client.pwrite(b"before", 0)
    control.value(m.Hold)
    thread, _ = write_in_thread(client, b"after!", 0)
    time.sleep(0.1)
    answer = commit(control)
    assert isinstance(answer, m.Done)
    control.value(m.Release)
    thread.join(10)
    copy = control.value(m.Describe)["copies"][0]
    assert copy["pending"]
    shadow = nbd_module.NBD()
    shadow.connect_uri(f"nbd+unix:///{copy['copy_id']}?socket={provider.export()}")
    assert shadow.pread(6, 0) == b"before" and client.pread(6, 0) == b"after!"


@pytest.mark.vss(86)
def test_gate_opens_at_its_deadline(provider: Any, client: Any) -> None:
    control = provider.control()
    control.value(m.Hold, timeout_ms=300)
    started = time.monotonic()
    thread, finished = write_in_thread(client, b"x", 0)
    thread.join(10)
    assert finished and finished[0] - started >= 0.25
    late = commit(control)
    assert isinstance(late, m.Failed) and late.code == Code.VSS_E_HOLD_WRITES_TIMEOUT
    assert control.value(m.Describe)["copies"] == []
    control.snapshot()


@pytest.mark.vss(86)
def test_nobody_holds_for_more_than_ten_seconds() -> None:
    gate, began = Gate(), time.monotonic()
    gate.close(gate, 3_600_000)
    assert began + 9 < gate.deadline <= time.monotonic() + 10


def test_gate_opens_when_its_owner_dies(provider: Any, client: Any) -> None:
    control = provider.control()
    control.value(m.Hold)
    thread, finished = write_in_thread(client, b"x", 0)
    time.sleep(0.1)
    assert not finished
    control.close()
    thread.join(5)
    assert finished
    provider.control().snapshot()


def test_order_of_calls(provider: Any) -> None:
    control, other = provider.control(), provider.control()
    for kind in (m.Release, None):
        answer = commit(control) if kind is None else control.call(kind)
        assert isinstance(answer, m.Failed) and answer.name == "VSS_E_BAD_STATE"
    control.value(m.Hold)
    for answer in (other.call(m.Hold), other.call(m.Release), commit(other)):
        assert isinstance(answer, m.Failed) and answer.name == "VSS_E_BAD_STATE"
    control.value(m.Release)
    unknown = control.call(m.Delete, copy_id=str(uuid4()))
    assert isinstance(unknown, m.Failed) and unknown.name == "VSS_E_OBJECT_NOT_FOUND"
    wrong = control.call(m.Delete, copy_id="no guid")
    assert isinstance(wrong, m.Failed) and wrong.name == "E_INVALIDARG"


def test_a_client_that_disconnects_while_held(provider: Any, client: Any) -> None:
    control = provider.control()
    control.value(m.Hold)
    thread, _ = write_in_thread(client, b"y" * 4096, 8192)
    time.sleep(0.1)
    control.value(m.Release)
    thread.join(5)
    client.shutdown()
    assert provider.process.poll() is None
