"""The store against a plain dictionary: writes, cuts, deletions, crashes and reclaiming in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import VssError

CHUNK = 4096
CHUNKS = 12
SIZE = CHUNK * CHUNKS - 1536


class StoreMachine(RuleBasedStateMachine):
    """Every living copy always reads as the volume did at its cut."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="ss-model-")
        self.origin = f"{self.directory}/origin"
        self.storage = f"{self.directory}/storage"
        self.live = bytearray(os.urandom(SIZE))
        with open(self.origin, "wb") as file:
            file.write(self.live)
        self.fd = os.open(self.origin, os.O_RDWR)
        self.copies: dict[UUID, bytes] = {}
        self.readers: dict[UUID, CopyReader] = {}

    @initialize()
    def open(self) -> None:
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)

    @rule(chunk=st.integers(0, CHUNKS - 1), start=st.integers(0, CHUNK - 1), length=st.integers(1, 3 * CHUNK))
    def write(self, chunk: int, start: int, length: int) -> None:
        offset = min(chunk * CHUNK + start, SIZE - 1)
        data = os.urandom(min(length, SIZE - offset))
        self.store.prepare_write([(offset, len(data))])
        os.pwrite(self.fd, data, offset)
        self.live[offset : offset + len(data)] = data

    @rule(persistent=st.booleans())
    def cut(self, persistent: bool) -> None:
        copy = uuid4()
        self.store.commit(copy, uuid4(), 1, persistent)
        self.store.finish(copy)
        self.copies[copy] = bytes(self.live)

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def keep_reader(self, data: st.DataObject) -> None:
        copy = data.draw(st.sampled_from(list(self.copies)))
        if copy not in self.readers:
            self.readers[copy] = CopyReader(self.storage, self.origin, copy)

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        copy = data.draw(st.sampled_from(list(self.copies)))
        self.store.delete(copy)
        del self.copies[copy]
        if copy in self.readers:
            with pytest.raises(CopyLost):
                self.readers[copy].read(0, 10)
            self.readers.pop(copy).close()

    @rule(steps=st.integers(1, 3))
    def reclaim(self, steps: int) -> None:
        for _, _ in zip(range(steps), self.store.reclaim(), strict=False):
            pass

    @rule()
    def kill_and_reopen(self) -> None:
        """The writer vanishes between two calls: nothing but its memory is lost."""
        self.store.head.close()
        self.store.segments.close()
        self.store.table.close()
        os.close(self.store._lock)
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)

    @rule()
    def close_and_reopen(self) -> None:
        self.store.close()
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)

    @rule()
    def power_loss(self) -> None:
        """Another boot after an unclean end: auto-release copies are gone, persistent ones are exact."""
        persistent = {entry.copy_id for entry in self.store.table.entries if entry.persistent}
        self.store.header.boot_id = uuid4()
        self.store.table.write_header()
        for reader in self.readers.values():
            reader.close()
        self.readers.clear()
        self.store.head.close()
        self.store.segments.close()
        self.store.table.close()
        os.close(self.store._lock)
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)
        for copy in [copy for copy in self.copies if copy not in persistent]:
            del self.copies[copy]
            with pytest.raises(VssError):
                CopyReader(self.storage, self.origin, copy)

    @invariant()
    def copies_are_exact(self) -> None:
        assert {entry.copy_id for entry in self.store.table.entries} == set(self.copies)
        for copy, content in self.copies.items():
            reader = self.readers.get(copy) or CopyReader(self.storage, self.origin, copy)
            assert reader.read(0, SIZE) == content
            assert reader.read(CHUNK - 7, CHUNK + 20) == content[CHUNK - 7 : 2 * CHUNK + 13]
            if copy not in self.readers:
                reader.close()

    def teardown(self) -> None:
        for reader in self.readers.values():
            reader.close()
        self.store.close()
        os.close(self.fd)
        shutil.rmtree(self.directory)


StoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = StoreMachine.TestCase
