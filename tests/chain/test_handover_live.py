"""Under a mounted file system: providers replaced while it is written, providers killed, and what the user is told."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

FAILING = """
import sys
if "--take-over" in sys.argv:
    sys.exit("shadowset-provider: this code is broken")
from shadowset.nbd_provider.main import main
sys.exit(main(sys.argv[1:]))
"""


class FileWriter(threading.Thread):
    """Writes files with fsync until told to stop; remembers their digests and its longest wait."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place
        self.digests: dict[str, str] = {}
        self.waits: list[float] = []
        self.error: BaseException | None = None
        self._stop_now = threading.Event()

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                name, content = f"file{len(self.waits) % 300}", os.urandom(20_000)
                begun = time.monotonic()
                with open(f"{self._place}/{name}", "wb") as file:
                    file.write(content)
                    os.fsync(file.fileno())
                self.waits.append(time.monotonic() - begun)
                self.digests[name] = hashlib.sha256(content).hexdigest()
        except OSError as error:
            self.error = error

    def goes_on(self) -> None:
        count = len(self.waits)
        wait_for("the writer", lambda: self.error or len(self.waits) > count + 2)
        assert self.error is None

    def end(self) -> None:
        self._stop_now.set()
        self.join(60)
        assert self.error is None and not self.is_alive()
        for name, digest in self.digests.items():
            assert hashlib.sha256(Path(f"{self._place}/{name}").read_bytes()).hexdigest() == digest, name


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provider_of(chain: Any) -> Any:
    return chain.cli("volume", "list")[0]


def test_handover_and_kill_under_a_mounted_file_system(chain: Any) -> None:
    chain.add_volumes((("live", "ext4", 64 << 20),))
    writer = FileWriter(chain.places["live"])
    writer.start()
    chain.cli("create", "live")
    copy = chain.cli("list")[0]["device_object"]
    before = digest(copy)
    stalls = []
    for _ in range(3):
        writer.goes_on()
        pid = provider_of(chain)["pid"]
        done = chain.cli("volume", "handover", "live")
        assert done["pid"] != pid and provider_of(chain)["pid"] == done["pid"]
        wait_for("the old process to end", lambda old=pid: not os.path.exists(f"/proc/{old}"))
        assert done["device_stall_ms"] >= 0
        stalls.append((done["stall_ms"], done["device_stall_ms"]))
    os.kill(provider_of(chain)["pid"], signal.SIGKILL)
    wait_for("the restart", lambda: provider_of(chain)["restarts"] == 1 and provider_of(chain)["state"] == "online")
    writer.goes_on()
    writer.end()
    print("handover stalls in ms:", stalls, "longest fsync:", round(max(writer.waits) * 1000, 1))
    assert digest(copy) == before
    shown = chain.raw("volume", "list").stdout
    assert "live: its provider was restarted once; last it was ended by SIGKILL" in shown
    names = [event["name"] for event in chain.cli("events")]
    assert names.count("provider-replaced") == 3 and names.count("provider-lost") == 1
    chain.cli("create", "live")


def test_a_broken_new_version_leaves_the_old_one_serving(chain: Any, tmp_path: Path) -> None:
    chain.add_volumes((("live", "ext4", 64 << 20),))
    chain.daemon.terminate()
    chain.daemon.wait(30)
    program = tmp_path / "provider.py"
    program.write_text(FAILING)
    chain.environment["SHADOWSET_PROVIDER_COMMAND"] = f"{sys.executable} {program}"
    chain.start_daemon()
    writer = FileWriter(chain.places["live"])
    writer.start()
    pid = provider_of(chain)["pid"]
    done = chain.raw("volume", "handover", "live")
    assert done.returncode == 1 and f"goes on being served by process {pid}" in done.stderr
    assert "this code is broken" in done.stderr and "Traceback" not in done.stderr
    writer.goes_on()
    writer.end()
    assert provider_of(chain)["pid"] == pid
    del chain.environment["SHADOWSET_PROVIDER_COMMAND"]


def test_a_volume_that_is_not_there_is_not_handed_over(chain: Any) -> None:
    done = chain.raw("volume", "handover", "nothing")
    assert done.returncode == 1 and "there is no volume" in done.stderr
    image = f"{chain.directory}/plain.img"
    with open(image, "wb") as file:
        file.truncate(1 << 20)
    chain.cli("volume", "add", "plain", image)
    assert chain.cli("volume", "handover", "plain")["stall_ms"] > 0
    assert pytest.approx(0) == provider_of(chain)["restarts"]
