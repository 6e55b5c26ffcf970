"""The writer under test: its process, and the connection that it has now."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import WriterEvent
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.conformance.coordinator import CONNECT_SECONDS, FakeCoordinator, Fault, WriterSide

END_SECONDS = 10.0
POLL_SECONDS = 0.05
MOST_ENDS = 3  # without ever a hello
SOCKET = "{socket}"


class Bench:
    """Starts the command and, when it has ended, starts it again, as a supervisor would."""

    def __init__(self, command: Sequence[str]) -> None:
        """``{socket}`` in the command is the socket's path, which SHADOWSET_RUNTIME_DIR leads to as well."""
        self.runtime = tempfile.mkdtemp(prefix="ss-", dir="/tmp")
        self.coordinator = FakeCoordinator(self.runtime)
        self.command = [word.replace(SOCKET, self.coordinator.path) for word in command]
        self.log = open(f"{self.runtime}/log", "w+b")  # noqa: SIM115
        self.process: subprocess.Popen[bytes] | None = None
        self._side: WriterSide | None = None
        self._sessions = 0
        self._ends: int | None = 0  # None after the first hello

    def start(self) -> None:
        """Errors: VssError when there is no such program."""
        environment = {**os.environ, "SHADOWSET_RUNTIME_DIR": self.runtime}
        try:
            self.process = subprocess.Popen(
                self.command, env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
            )
        except OSError as error:
            message = f"{self.command[0]} cannot be run ({error.strerror}); give the writer's command after --"
            raise VssError(Code.E_INVALIDARG, message) from error

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def side(self) -> WriterSide:
        """The writer's connection, a new one when there is none any more. Errors: Fault."""
        if self._side is None or self._side.closed.is_set():
            self._side = self.next_side()
        return self._side

    def next_side(self, seconds: float = CONNECT_SECONDS) -> WriterSide:
        """The next connection; a writer that has ended is started again.

        Errors: Fault; VssError when it ends again and again, and never said hello.
        """
        end = time.monotonic() + seconds
        while True:
            if not self.running:
                self._count_end()
                self.start()
            try:
                self._side = self.coordinator.writer(POLL_SECONDS * 4)
            except Fault:
                if time.monotonic() >= end:
                    raise Fault(f"no hello came in {seconds:g} seconds{self.last_words()}") from None
                time.sleep(POLL_SECONDS)
            else:
                self._ends = None
                return self._side

    def _count_end(self) -> None:
        if self.process is None or self._ends is None:
            return
        self._ends += 1
        if self._ends == MOST_ENDS:
            status = self.process.returncode
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            told = f"{self.command[0]} {how} before it said hello, {MOST_ENDS} times{self.last_words()}"
            raise VssError(Code.E_INVALIDARG, f"{told}; see that it runs by itself, and stays")

    def reset(self) -> None:
        """Kills the process, so that the next point finds a fresh one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self._side is not None:
            self._side.closed.wait(CONNECT_SECONDS)
        self._side = None

    def session(self) -> str:
        """A name that no session had yet."""
        self._sessions += 1
        return f"session-{self._sessions}"

    def metadata(self) -> WriterMetadata:
        """What it answers to identify. Errors: Fault."""
        answer = self.side().ok(WriterEvent.IDENTIFY, session=self.session(), set="")
        if answer.metadata is None:
            raise Fault("identify was answered without metadata")
        return answer.metadata

    def chosen(self) -> list[Component]:
        """All of its components, as a requester would choose them. Errors: Fault."""
        return [Component(each.type, each.logical_path, each.name) for each in self.metadata().components]

    def volumes(self) -> list[EventVolume]:
        """One volume that everything lies on."""
        return [EventVolume("everything", ["/"])]

    def last_words(self) -> str:
        """The end of what the process printed."""
        self.log.flush()
        with open(self.log.name, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 300))
            words = " ".join(file.read().decode(errors="replace").split())
        return f"; it last printed: {words}" if words else ""

    def close(self) -> None:
        """Ends everything."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            killer = threading.Timer(END_SECONDS, self.process.kill)
            killer.start()
            self.process.wait()
            killer.cancel()
        self.coordinator.stop()
        self.log.close()
        shutil.rmtree(self.runtime, ignore_errors=True)
