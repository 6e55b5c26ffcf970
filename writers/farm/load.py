"""Work without end for a farm: transfers, documents, reads. It outlives any failure of the farm, and counts it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from shadowset.writers.farm.app import Farm, FarmErrors
from shadowset.writers.farm.gate import GateShutError
from shadowset.writers.farm.layout import ACCOUNTS

DOCUMENTS = 300  # for each content database; then they get new versions
WORDS = ("alder", "beech", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow")
ERROR_SECONDS = 0.25


@dataclass
class Counters:
    """What was done since the start."""

    transfers: int = 0
    documents: int = 0
    reads: int = 0
    errors: int = 0
    error: str = ""


class Load:
    """Threads that work on one farm until ``request_stop``."""

    def __init__(self, farm: Farm, pause: float = 0.002) -> None:
        """``pause`` is in seconds, between two requests of one thread."""
        self._farm = farm
        self._pause = pause
        self._stopping = threading.Event()
        self.counters = Counters()
        jobs = (self._transfer, self._transfer, self._document, self._read)
        self._threads = [threading.Thread(target=self._work, args=(job,), daemon=True) for job in jobs]

    def start(self) -> None:
        """Starts the work."""
        for thread in self._threads:
            thread.start()

    def request_stop(self) -> None:
        """No new request after those under way."""
        self._stopping.set()

    def join(self) -> None:
        """Waits for the end; the farm's gate has to be open or shut, or requests would go on waiting."""
        for thread in self._threads:
            thread.join()

    def _work(self, job: Callable[[], None]) -> None:
        while not self._stopping.wait(self._pause):
            try:
                job()
            except GateShutError:
                return
            except FarmErrors as error:
                if self._stopping.is_set():
                    return
                self.counters.errors += 1
                self.counters.error = str(error)
                self._stopping.wait(ERROR_SECONDS)

    def _transfer(self) -> None:
        source, target = random.sample(self._farm.content_names, 2)
        account, to_account = random.randrange(ACCOUNTS), random.randrange(ACCOUNTS)
        with self._farm.request():
            if self._farm.transfer(source, target, account, to_account, random.randint(1, 40)):
                self.counters.transfers += 1

    def _document(self) -> None:
        database = random.choice(self._farm.content_names)
        key = f"{database}-{random.randrange(DOCUMENTS)}"
        body = " ".join(random.choices(WORDS, k=40))
        with self._farm.request():
            self._farm.store(database, key, body)
        self.counters.documents += 1

    def _read(self) -> None:
        self._farm.balance(random.choice(self._farm.content_names), random.randrange(ACCOUNTS))
        self._farm.search_call("search", random.choice(WORDS))
        self.counters.reads += 1
