"""Applications of the table that keep their data by a library, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from applications import Application, empty, module
from processes import children, wait_for_end

from shadowset.vss.codes import VssError
from shadowset.writers.farm.main import main as farm_main
from shadowset.writers.index.library import library_of


class Embedded(Application):
    """An application that keeps its data by a library: ``embedded_application.py`` in a process of its own."""

    process: subprocess.Popen[str] | None = None

    def places(self) -> list[str]:
        """What its process is told."""
        return [self.data]

    def start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        os.makedirs(self.data, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("embedded_application.py")), self.name, *self.places()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self.process = None

    def _ask(self, words: str) -> Any:
        if self.process is None:
            raise OSError(f"the {self.name} application was killed")
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise OSError(f"the {self.name} application is gone")
        return json.loads(line)

    def put(self, number: int) -> None:
        self._ask(f"put {number}")

    def numbers(self) -> list[int]:
        found: list[int] = self._ask("numbers")
        return found


class Sqlite(Embedded):
    name, writer_name = "sqlite", "SQLite Writer"

    def check(self) -> None:
        self.kill()
        connection = sqlite3.connect(f"{self.data}/taken.db")
        with contextlib.closing(connection):
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def writer(self) -> list[str]:
        return module("sqlite", f"{self.data}/*.db")


class SearchIndex(Embedded):
    """An index without the database behind it."""

    @classmethod
    def missing(cls) -> str:
        try:
            library_of(cls.name)
        except VssError as error:
            return error.message
        return ""

    def check(self) -> None:
        done = subprocess.run([*self.writer(), "--check"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def writer(self) -> list[str]:
        config = f"{self.runtime}/writer.toml"
        Path(config).write_text(f'name = "{self.name}"\n[[index]]\nkind = "{self.name}"\npath = "{self.data}"\n')
        return module("index", "--config", config)


class Xapian(SearchIndex):
    name, writer_name = "xapian", "Search Index Writer (xapian)"


class Tantivy(SearchIndex):
    name, writer_name = "tantivy", "Search Index Writer (tantivy)"


class Farm(Embedded):
    """``shadowset-farm`` on two volumes: each number is a document and a transfer. Its writer is in its own process."""

    name, writer_name = "farm", "Shadowset Farm Writer"

    def __init__(self, chain: Any, runtime: str) -> None:
        super().__init__(chain, runtime)
        self.other = f"{chain.places['files']}/{self.name}"

    @classmethod
    def missing(cls) -> str:
        return Tantivy.missing()

    @property
    def writer_names(self) -> list[str]:
        return [self.writer_name, "SQLite Writer (farm)"]

    def directories(self) -> list[str]:
        return [self.data, self.other]

    def places(self) -> list[str]:
        return [self.data, self.other, self.chain.paths.writer_socket]

    def start(self) -> None:
        if not os.path.exists(self.data):
            assert farm_main(["init", self.data, self.other]) == 0
        super().start()

    def kill(self) -> None:
        """Its search service and the third party end with it."""
        with_it = children(self.process.pid) if self.process is not None else []
        super().kill()
        for pid in with_it:
            wait_for_end(pid)

    def check(self) -> None:
        self.kill()
        assert farm_main(["check", self.data, self.other]) == 0

    def destroy(self) -> None:
        """Without files it waits to be restored."""
        super().destroy()
        empty(self.other)
        super().start()

    def writer(self) -> list[str]:
        """That of the third party's database."""
        return module("sqlite", "--name", "farm", f"{self.other}/crm.db")
