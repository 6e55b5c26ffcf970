"""A Redis server of a test's own."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from processes import wait_for_end
from redis.backoff import NoBackoff
from redis.retry import Retry


def installed() -> bool:
    return shutil.which("redis-check-rdb") is not None


RIGHTS = "+info +ping +config|get +config|set +client|pause +client|unpause +bgsave"  # those of the writer's page


class Redis:
    """A server; the program is found under its other name, which comes without a service."""

    def __init__(self, top: str, append: bool, data: str = "") -> None:
        self.top, self.data, self.socket = top, data or f"{top}/data", f"{top}/s"
        os.makedirs(self.data, exist_ok=True)
        program = f"{top}/redis-server"
        os.symlink(shutil.which("redis-server") or shutil.which("redis-check-rdb") or "", program)
        self.script = f"{top}/start"
        Path(self.script).write_text(
            f"#!/bin/sh\n{program} --port 0 --unixsocket {self.socket} --dir {self.data} --daemonize yes"
            f" --appendonly {'yes' if append else 'no'} --save '' --pidfile {top}/pid --logfile {top}/log"
            f" --user backup on {shlex.join(['>secret', *RIGHTS.split()])}\n"
        )
        os.chmod(self.script, 0o755)
        self.begin()

    def begin(self) -> None:
        """Start it where it does not run: a second one would take the socket, and nobody would end the first."""
        if self.answers():
            return
        subprocess.run([self.script], check=True, timeout=60)
        end = time.monotonic() + 30
        while not self.answers():
            assert time.monotonic() < end, "the server takes no connection"
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            self.client(retry=Retry(NoBackoff(), 0)).ping()  # its own way of trying again takes seconds
        except redis.RedisError:
            return False
        return True

    def client(self, **options: Any) -> Any:
        return redis.Redis(unix_socket_path=self.socket, decode_responses=True, **options)

    def end(self) -> None:
        try:
            pid = self.client(retry=Retry(NoBackoff(), 0)).info("server")["process_id"]
        except redis.RedisError:
            return
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)

    def writer_config(self) -> str:
        path = f"{self.top}/writer.toml"
        Path(f"{self.top}/password").write_text("secret\n")
        Path(path).write_text(
            f'[[server]]\nsocket = "{self.socket}"\ndata_directory = "{self.data}"\n'
            f'user = "backup"\npassword_file = "{self.top}/password"\n'
            f'start_command = ["{self.script}"]\n'
            f'stop_command = ["sh", "-c", "kill $(cat {self.top}/pid)"]\n'
        )
        return path
