"""The process behind the device objects is watched: how it ended is told, and that it is back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shadowset.daemon import device_layer
from shadowset.daemon.commands import Commands
from shadowset.vss.mountinfo import parse_mountinfo
from shadowset.vss.paths import Paths

LIVES = "import sys, time; print('harmless', file=sys.stderr); time.sleep(600)"
FAILS = "import sys; sys.exit('no /dev/fuse here')"


async def _watched(base: Path, program: str, wanted: list[str], kill: bool) -> list[tuple[str, str]]:
    events: list[tuple[str, str]] = []
    paths = Paths(str(base / "run"), str(base / "state"), str(base / "etc"))
    os.makedirs(paths.runtime)
    commands = replace(Commands.from_environment({}), fuse=(sys.executable, "-c", program))
    layer = device_layer.DeviceLayer(paths, commands, lambda name, message, *_: events.append((name, message)))
    layer.start()
    killed = not kill
    try:
        async with asyncio.timeout(60):
            while [name for name, _ in events] != wanted:
                await asyncio.sleep(0.01)
                if not killed and os.path.exists(layer.pid_file):
                    os.kill(int(Path(layer.pid_file).read_text()), signal.SIGKILL)
                    killed = True
    finally:
        await layer.leave()
        if kill:  # the one that came back; it outlives who watches it
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int(Path(layer.pid_file).read_text()), signal.SIGKILL)
    return events


def test_one_that_is_killed_is_told_with_its_signal_and_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_layer, "STEADY_S", 0.5)
    mounted = parse_mountinfo(f"20 1 0:40 / {tmp_path}/run/devices ro - fuse shadowset ro\n")
    monkeypatch.setattr(device_layer, "read_mounts", lambda: mounted)
    monkeypatch.setattr(device_layer, "server_pid", lambda paths: int(Path(f"{paths.runtime}/fuse.pid").read_text()))
    lost, back = asyncio.run(_watched(tmp_path, LIVES, ["devices-lost", "devices-back"], kill=True))
    assert "SIGKILL" in lost[1] and "harmless" not in lost[1]
    assert "started again" in back[1]


def test_one_that_cannot_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    ((_, lost),) = asyncio.run(_watched(tmp_path, FAILS, ["devices-lost"], kill=False))
    assert "status 1" in lost and "no /dev/fuse here" in lost
