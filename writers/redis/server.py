"""One running server, whose writers are paused over the cut.

``CLIENT PAUSE … WRITE`` lets clients read on; it ends by itself. So it is given for a moment only, again and again:
when the writer dies or hangs, the server's clients go on a moment later. Under the pause the append-only file is waited
for until it is settled; without one, the data set is saved.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.guard import Guard
from shadowset.writers.redis.settings import RedisServer

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as missing:  # told when a writer starts, not when the module is looked at
    MISSING: ImportError | None = missing
else:
    MISSING = None

CALL_SECONDS = 5.0
PAUSE_SECONDS = 3.0
RENEW_SECONDS = 0.5
POLL_SECONDS = 0.005
REWRITE = "auto-aof-rewrite-percentage"
REWRITE_NEVER = "0"
GUARD = "shadowset.writers.redis.guard"


def require_driver() -> None:
    """Errors: VSS_E_NOT_SUPPORTED when the driver is not installed."""
    if MISSING is not None:
        message = f"the Redis driver is not there ({MISSING}); install it with pip install 'shadowset[redis]'"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message)


def translate(where: str, action: str, error: Exception) -> VssError:
    """The server's error as the writer's: lost and busy servers may be tried again, the rest needs somebody's hand."""
    lost = isinstance(error, OSError | redis.ConnectionError | redis.TimeoutError | redis.BusyLoadingError)
    refused = isinstance(error, redis.AuthenticationError)
    code, advice = Code.VSS_E_WRITERERROR_NONRETRYABLE, "give the writer's user what it lacks"
    if lost and not refused:
        code, advice = Code.VSS_E_WRITERERROR_RETRYABLE, "see that the server runs, and try again"
    return VssError(code, f"the server of {where} did not do {action} ({error}); {advice}")


class Server:
    """A connection; ``redis`` gives each call one of its own, so the pauses can be renewed from another thread."""

    def __init__(self, settings: RedisServer, where: str = "") -> None:
        """Errors: VssError naming ``where`` or the socket."""
        self.where = where or settings.socket
        self._facts: dict[str, str] = {}
        self._pause = Pause(self._renew)
        self._settings = settings
        self._rewrite = ""
        self._guard: Guard | None = None
        try:
            password = Path(settings.password_file).read_text().strip() if settings.password_file else None
            self._redis: redis.Redis = redis.Redis(
                unix_socket_path=settings.socket,
                username=settings.user or None,
                password=password,
                decode_responses=True,
                socket_timeout=CALL_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
            self.data_directory = os.path.realpath(str(self.setting("dir")))
        except (OSError, redis.RedisError) as error:
            raise translate(self.where, "the log-in", error) from error

    def ask(self, action: str, *words: str) -> Any:
        """One command. Errors: VssError."""
        try:
            return self._redis.execute_command(*words)  # type: ignore[no-untyped-call]
        except (OSError, redis.RedisError) as error:
            raise translate(self.where, action, error) from error

    def setting(self, name: str) -> str:
        """A setting by its name; empty where the server has none of it. Errors: VssError."""
        found: dict[str, str] = self.ask("telling its settings", "CONFIG", "GET", name)
        return found.get(name, "")

    def info(self, section: str) -> dict[str, Any]:
        """What the server tells of itself. Errors: VssError."""
        found: dict[str, Any] = self.ask("telling of itself", "INFO", section)
        return found

    def process(self) -> int:
        """The server's process."""
        return int(self.info("server")["process_id"])

    def files(self) -> list[str]:
        """Names of its files in the data directory."""
        names = [self.setting(name) for name in ("dbfilename", "appendfilename", "appenddirname")]
        return [name for name in names if name]

    def loading(self) -> bool:
        """Whether it still reads its files. Errors: VssError."""
        return bool(self.info("persistence")["loading"])

    def lasting_keys(self) -> int:
        """Keys that do not expire, in all databases. Errors: VssError."""
        return sum(int(each["keys"]) - int(each["expires"]) for each in self.info("keyspace").values())

    # --- over the cut

    def facts(self) -> dict[str, str]:
        return self._facts

    def stamp(self) -> str:
        return self._facts.get("offset", "")

    def prepare(self, seconds: float) -> None:
        """Waits for a rewrite of the append-only file that is under way, and starts what puts its setting back."""
        self._facts = {"version": str(self.info("server")["redis_version"])}
        end = time.monotonic() + seconds
        value = self.setting(REWRITE)
        if value not in ("", REWRITE_NEVER) and self.info("persistence")["aof_enabled"]:
            self._guard = Guard(GUARD, msgspec.json.encode({"settings": self._settings, "value": value}))
            self._rewrite = value
        self._wait(end, "finish rewriting its files", lambda info: not self._writing(info))

    def hold(self, seconds: float, window: float) -> None:
        end = time.monotonic() + seconds
        if self._guard is not None:
            self._limit_guard(self._guard, window)
            self.ask("keeping its files together", "CONFIG", "SET", REWRITE, REWRITE_NEVER)
        self._pause.begin()
        self._wait(end, "finish rewriting its files", lambda info: not self._writing(info))
        if self.info("persistence")["aof_enabled"]:
            self._facts["method"] = "append-only file"
            self._wait(end, "settle its append-only file", _settled)
        else:
            self._facts["method"] = "saved data set"
            self.ask("saving its data set", "BGSAVE")
            self._wait(end, "save its data set", lambda info: not info["rdb_bgsave_in_progress"])
            if self.info("persistence")["rdb_last_bgsave_status"] != "ok":
                message = f"the server of {self.where} could not save its data set; look at its log and its disk"
                raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        self._facts["lasting_keys"] = str(self.lasting_keys())
        self._facts["offset"] = str(self.info("replication")["master_repl_offset"])

    def _limit_guard(self, guard: Guard, window: float) -> None:
        try:
            guard.limit(window)
        except OSError as error:
            message = f"the guard of {self.where} is gone ({error.strerror}); try again"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message) from error

    def _wait(self, end: float, what: str, done: Callable[[dict[str, Any]], bool]) -> None:
        while not done(self.info("persistence")):
            if time.monotonic() >= end:
                message = f"the server of {self.where} did not {what} in time; try again when it has less to write"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
            time.sleep(POLL_SECONDS)

    def _writing(self, info: dict[str, Any]) -> bool:
        return any(
            info[name] for name in ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
        )

    def _renew(self) -> None:
        self.ask("pausing its writers", "CLIENT", "PAUSE", str(int(PAUSE_SECONDS * 1000)), "WRITE")

    def release(self) -> None:
        """Errors: VssError when the pause had ended before."""
        lasted = self._pause.end()
        try:
            self.ask("letting its writers go on", "CLIENT", "UNPAUSE")
        finally:
            self._restore_setting()
        if not lasted:
            message = f"the pause of {self.where} ended too early; try again when the host is less busy"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def _restore_setting(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            self.ask("putting its settings back", "CONFIG", "SET", REWRITE, self._rewrite)
        except VssError:
            guard.take_over()
            raise
        guard.dismiss()

    def interrupt(self) -> None:
        """Calls have a limit each, so none has to be broken."""

    def close(self) -> None:
        """Lets the writers go on, whatever the state."""
        try:
            if self._pause.running or self._guard is not None:
                self.release()
        except VssError:
            pass  # the pause ends by itself
        finally:
            self._redis.close()


def _settled(info: dict[str, Any]) -> bool:
    return not info["aof_buffer_length"] and not info["aof_pending_bio_fsync"]


class Pause:
    """Renews a pause until it is ended, and knows whether it was ever late."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lasts_until = 0.0
        self._late = False

    @property
    def running(self) -> bool:
        """Whether it was begun and not ended."""
        return self._thread is not None

    def begin(self) -> None:
        """Errors: those of ``renew``."""
        self._late, self._lasts_until = False, time.monotonic() + PAUSE_SECONDS
        self._renew()
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep, name="pause", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            asked = time.monotonic()
            try:
                self._renew()
            except VssError:
                continue  # the next one may still be in time
            self._late = self._late or time.monotonic() > self._lasts_until
            self._lasts_until = asked + PAUSE_SECONDS

    def end(self) -> bool:
        """Stops renewing; whether the pause was there all the time."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        return not self._late and time.monotonic() <= self._lasts_until
