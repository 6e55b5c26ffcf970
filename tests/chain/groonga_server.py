"""A Groonga server of a test's own, with documents that number themselves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from processes import wait_for_end

SCHEMA = """\
table_create Tags TABLE_HASH_KEY ShortText
table_create Docs TABLE_HASH_KEY ShortText
column_create Docs body COLUMN_SCALAR Text
column_create Docs number COLUMN_SCALAR Int64
column_create Docs tag COLUMN_SCALAR Tags
table_create Terms TABLE_PAT_KEY ShortText --default_tokenizer TokenBigram --normalizer NormalizerAuto
column_create Terms docs_body COLUMN_INDEX|WITH_POSITION Docs body
"""


def installed() -> bool:
    return bool(shutil.which("groonga") and shutil.which("grndb"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Groonga:
    """The server of ``directory``/db, which is made unless it is there; script, log and pid lie in ``runtime``."""

    def __init__(self, directory: str, runtime: str) -> None:
        os.makedirs(directory, exist_ok=True)
        os.makedirs(runtime, exist_ok=True)
        self.directory, self.runtime, self.database = directory, runtime, f"{directory}/db"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.script = f"{runtime}/start"
        port = self.url.rsplit(":", 1)[1]
        Path(self.script).write_text(
            f"#!/bin/sh\ngroonga -d --protocol http --bind-address 127.0.0.1 -p {port} --max-threads 2"
            f" --log-path {runtime}/log --pid-path {runtime}/pid {self.database}\n"
        )
        os.chmod(self.script, 0o755)
        self.begin()

    def shell(self, commands: str, *options: str) -> list[Any]:
        done = subprocess.run(
            ["groonga", *options, self.database], input=commands, capture_output=True, text=True, timeout=60, check=True
        )
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
        assert not any(answer[0][0] for answer in answers), answers
        return [answer[1] for answer in answers]

    def begin(self) -> None:
        if not os.path.exists(self.database):
            os.makedirs(self.directory, exist_ok=True)
            self.shell(SCHEMA, "-n")
        subprocess.run([self.script], check=True, timeout=60, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            try:
                self.ask("status")
            except OSError:
                assert time.monotonic() < end, Path(f"{self.runtime}/log").read_text()
                time.sleep(0.02)
            else:
                return

    @property
    def pid(self) -> int:
        return int(Path(f"{self.runtime}/pid").read_text())

    @property
    def stop_command(self) -> list[str]:
        return ["sh", "-c", f"test ! -e {self.runtime}/pid || kill $(cat {self.runtime}/pid)"]

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        try:
            pid = self.pid
            os.kill(pid, number)
        except (OSError, ValueError):
            return
        wait_for_end(pid)
        if os.path.exists(f"{self.runtime}/pid"):
            os.unlink(f"{self.runtime}/pid")

    def ask(self, command: str, body: Any = None, seconds: float = 60.0) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/d/{command}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return json.load(response)[1]

    def put(self, number: int) -> None:
        document = {"_key": f"doc{number}", "body": f"number{number} alpha beta", "number": number}
        assert self.ask("load?table=Docs", [{**document, "tag": f"tag{number % 5}"}]) == 1

    def found(self) -> int:
        """How many documents a search finds."""
        return int(self.ask("select?table=Docs&match_columns=body&query=alpha&limit=0")[0][0][0])

    def check(self) -> set[int]:
        """The numbers of the documents; fails unless index, columns and Groonga's check agree. The server must be down.

        A record that was begun at the cut and had only its key yet would be found here.
        """
        done = subprocess.run(["grndb", "check", self.database], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        shown = "--limit -1 --output_columns _key,number,body,tag"
        everything, matched = (
            answer[0][2:]
            for answer in self.shell(f"select Docs {shown}\nselect Docs --match_columns body --query alpha {shown}\n")
        )
        assert sorted(everything) == sorted(matched), "the index finds other documents than there are"
        for key, number, body, tag in everything:
            assert (key, body, tag) == (f"doc{number}", f"number{number} alpha beta", f"tag{number % 5}")
        last = everything[-1][1]
        (one,) = self.shell(
            f"select Docs --match_columns body --query number{last} --limit 1 --output_columns number\n"
        )
        assert one[0][0] == [1] and one[0][2:] == [[last]]
        return {number for _key, number, _body, _tag in everything}


def writer_config(path: str, server: Groonga, extra: str = "") -> str:
    Path(path).write_text(
        f'{extra}\n[[server]]\ndatabase = "{server.database}"\nurl = "{server.url}"\n'
        f"start_command = {json.dumps([server.script])}\nstop_command = {json.dumps(server.stop_command)}\n",
        encoding="utf-8",
    )
    return path


def writer_command(config: str) -> list[str]:
    return [sys.executable, "-m", "shadowset.writers.groonga.main", "--config", config]
