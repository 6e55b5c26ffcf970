"""Guest agents and monitors that are none: what they answer is the test's."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

Answer = Callable[[dict[str, Any]], bytes | None]
SYNC = "guest-sync-delimited"


def returns(value: Any) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


class Peer:
    """One client at a time, as QEMU does; what ``answer`` makes of a request is sent, None is silence."""

    def __init__(self, path: str, answer: Answer, greeting: bytes = b"") -> None:
        self.path, self.answer, self.greeting = path, answer, greeting
        self.asked: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            with connected, connected.makefile("rb") as stream:
                connected.sendall(self.greeting)
                for line in stream:
                    request = json.loads(line.lstrip(b"\xff"))
                    self.asked.append(request["execute"])
                    reply = self.answer(request)
                    if reply is not None:
                        try:
                            connected.sendall(reply)
                        except OSError:
                            break

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self.path)


class AgentPeer(Peer):
    """A guest agent, and how it goes wrong: ``silent`` commands are carried out, but not answered."""

    def __init__(self, path: str, silent: tuple[str, ...] = (), frozen: bool = False) -> None:
        self.frozen, self.silent = frozen, list(silent)
        super().__init__(path, self.say)

    def say(self, request: dict[str, Any]) -> bytes | None:
        command = request["execute"]
        value: Any = {"guest-fsfreeze-status": "frozen" if self.frozen else "thawed"}.get(command, 1)
        if command == SYNC:
            return b'{"return": "stale"}\n\xff' + returns(request["arguments"]["id"])
        if command in ("guest-fsfreeze-freeze", "guest-fsfreeze-thaw"):
            value, self.frozen = int(self.frozen != command.endswith("freeze-freeze")), command.endswith("-freeze")
        if command in self.silent:
            self.silent.remove(command)
            return None
        return returns(value)


GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'


class MonitorPeer(Peer):
    """A monitor of a guest that runs."""

    def __init__(self, path: str) -> None:
        self.state = "running"
        super().__init__(path, self.say, GREETING)

    def say(self, request: dict[str, Any]) -> bytes | None:
        command = request["execute"]
        self.state = {"stop": "paused", "cont": "running"}.get(command, self.state)
        values = {"query-block": [], "query-status": {"status": self.state}, "query-name": {"name": "web"}}
        return b'{"event": "RESUME"}\n' + returns(values.get(command, {}))
