"""kill -9 of each party in each phase of a set: nothing stays frozen or held, and the next set works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

HERE = os.path.dirname(__file__)
PHASES = ("prepare-backup", "prepare-snapshot", "freeze", "hold", "thaw", "post-snapshot", "backup-complete")
VICTIMS = ("requester", "writer", "daemon", "provider")


def start_writer(chain: Any, phase: str) -> Any:
    os.makedirs(f"{chain.runtime}/phase", exist_ok=True)
    for name in ("reached", "leave"):
        if os.path.exists(f"{chain.runtime}/phase/{name}"):
            os.unlink(f"{chain.runtime}/phase/{name}")
    script = f"{HERE}/phase_writer.py"
    return chain.start(sys.executable, script, phase, f"{chain.runtime}/phase", *chain.places.values())


def registered(chain: Any) -> bool:
    return any(entry["name"] == "Phase Writer" and entry["connected"] for entry in chain.cli("writers"))


def start_requester(chain: Any, number: int) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = chain.module(
        "shadowset.requester.cli", "backup", f"{chain.directory}/backup-{number}", "--json"
    )
    return process


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", VICTIMS)
def test_kill(volumes: Any, wait_until: Any, victim: str) -> None:
    chain = volumes
    for number, phase in enumerate(PHASES):
        writer = start_writer(chain, phase)
        wait_until("the writer to be registered", lambda: registered(chain))
        providers = {name: chain.describe(name).pid for name in chain.places}
        if phase == "hold":
            os.kill(providers["two"], signal.SIGSTOP)
        requester = start_requester(chain, number)
        try:
            if phase == "hold":
                wait_until("writes to be held on the first volume", lambda: chain.describe("one").holding)
            else:
                wait_until(f"the set to reach {phase}", lambda: os.path.exists(f"{chain.runtime}/phase/reached"))
            pid = {
                "requester": requester.pid,
                "writer": writer.pid,
                "daemon": chain.daemon.pid,
                "provider": providers["one"],
            }[victim]
            os.kill(pid, signal.SIGKILL)
        finally:
            if phase == "hold":
                os.kill(providers["two"], signal.SIGCONT)
        with open(f"{chain.runtime}/phase/leave", "w", encoding="ascii"):
            pass
        requester.wait(90)
        chain.check_writable()
        if victim == "daemon":
            chain.daemon.wait(10)
            chain.start_daemon()
        writer.kill()
        writer.wait(10)
        wait_until("the volumes to be online", lambda: online(chain))
        chain.check_writable()
        copies_left = chain.cli("list")
        assert copies_left in ([], {"sets": []}), f"{victim} killed in {phase} left {json.dumps(copies_left)}"
        record = chain.cli("create", *chain.places)
        assert len(record["snapshots"]) == len(chain.places), f"no next set after {victim} was killed in {phase}"
        chain.cli("delete", record["set_id"])


def online(chain: Any) -> bool:
    return all(entry["state"] == "online" for entry in chain.cli("volume", "list"))
