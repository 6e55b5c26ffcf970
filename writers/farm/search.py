"""The farm's side of its search service."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from typing import Any


class SearchError(Exception):
    """The search service failed or is gone."""


class SearchService:
    """Starts the process that owns one index, and calls it; from any thread."""

    def __init__(self, directory: str) -> None:
        """Errors: SearchError when the index cannot be opened."""
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shadowset.writers.farm.search_process", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._read()
        except SearchError:
            self.close()
            raise

    def call(self, name: str, *arguments: object) -> Any:
        """One call of SearchIndex.

        Errors: SearchError.
        """
        with self._lock:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:
                raise SearchError(f"the search service is gone: {error}") from error
            return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except ValueError as error:
            raise SearchError("the search service was closed") from error
        if not line:
            raise SearchError(f"the search service ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SearchError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Ends the process, whatever state it is in."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
