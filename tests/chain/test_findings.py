"""What a trial found once: losses are told, coordinators share no state, reused device numbers fool nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.vss(125)
def test_a_copy_lost_to_full_storage_is_reported_and_gone(chain: Any, wait_until: Any) -> None:
    small = f"{chain.directory}/small"
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "tmpfs", small], check=True)
    image = f"{chain.directory}/v.img"
    Path(image).write_bytes(os.urandom(32 << 20))
    chain.cli("volume", "add", "v", image, "--storage", f"{small}/v")
    device = chain.cli("volume", "attach", "v")["device"]
    chain.cli("create", "v")
    subprocess.run(["dd", "if=/dev/zero", f"of={device}", "bs=1M", "count=32", "oflag=direct"], check=True, timeout=60)
    wait_until("the loss to be told", lambda: [e for e in chain.cli("events") if e["name"] == "snapshot-lost"])
    (told,) = [e for e in chain.cli("events") if e["name"] == "copy-lost"]
    assert told["volume"] == "v" and told["message"]
    assert chain.cli("list") == []
    assert chain.describe("v").copies == []
    chain.raw("volume", "remove", "v", "--force")


def test_a_second_coordinator_on_the_same_state_is_refused(chain: Any) -> None:
    other = f"{chain.runtime}/other"
    os.mkdir(other)
    done = subprocess.run(
        [sys.executable, "-m", "shadowset.daemon.main"],
        env={**chain.environment, "SHADOWSET_RUNTIME_DIR": other},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "already holds" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_reused_device_number_is_not_taken_for_the_volume(chain: Any, wait_until: Any) -> None:
    image, foreign = f"{chain.directory}/v.img", f"{chain.directory}/foreign.img"
    for path in (image, foreign):
        Path(path).write_bytes(bytes(8 << 20))
    chain.cli("volume", "add", "v", image)
    device = chain.cli("volume", "attach", "v")["device"]
    if not device.startswith("/dev/loop"):
        pytest.skip("attached by the kernel's nbd here, whose device cannot be given to a file")
    held = os.open(device, os.O_RDONLY)
    refused = chain.raw("volume", "detach", "v")
    os.close(held)
    assert refused.returncode == 1
    assert "[VSS_E_VOLUME_IN_USE " in refused.stderr and refused.stderr.count("[VSS_E_") == 1
    wait_until("the kernel to let the loop device go", lambda: not os.path.exists(f"/sys/block/{device[5:]}/loop"))
    subprocess.run(["losetup", device, foreign], check=True)
    try:
        assert chain.cli("volume", "list")[0]["device"] == ""
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    again = chain.cli("volume", "attach", "v")["device"]
    assert Path(f"/sys/block/{again[5:]}/loop/backing_file").read_text().strip().startswith(chain.runtime)
    chain.raw("volume", "remove", "v", "--force")


def test_a_device_without_bridge_and_keeper_is_reported_until_it_is_attached_again(chain: Any, wait_until: Any) -> None:
    Path(f"{chain.directory}/v.img").write_bytes(bytes(8 << 20))
    chain.cli("volume", "add", "v", f"{chain.directory}/v.img")
    chain.cli("volume", "attach", "v", "--via", "fuse")
    bridge = json.loads(Path(f"{chain.paths.volume('v')}/bridge.json").read_text())
    os.kill(bridge["bridge"], signal.SIGKILL)  # alone: its keeper starts another one
    wait_until("the event", lambda: [e for e in chain.cli("events") if e["name"] == "bridge-restarted"])
    assert Path(chain.cli("volume", "list")[0]["device"]).read_bytes() == bytes(8 << 20)
    bridge = json.loads(Path(f"{chain.paths.volume('v')}/bridge.json").read_text())
    os.kill(bridge["keeper"], signal.SIGSTOP)
    os.kill(bridge["bridge"], signal.SIGKILL)
    os.kill(bridge["keeper"], signal.SIGKILL)
    wait_until("the list to say it", lambda: chain.cli("volume", "list")[0]["state"] == "failed")
    assert "detach and attach it again" in chain.cli("volume", "list")[0]["message"]
    attaching = chain.raw("volume", "attach", "v")
    assert attaching.returncode and "is dead; unmount" in attaching.stderr
    wait_until("the event", lambda: [e for e in chain.cli("events") if e["name"] == "attach-lost"])
    chain.cli("volume", "detach", "v")
    device = chain.cli("volume", "attach", "v")["device"]
    assert chain.cli("volume", "list")[0]["state"] == "online"
    assert Path(device).read_bytes() == bytes(8 << 20)
    chain.raw("volume", "remove", "v", "--force")


def test_a_writer_that_was_stopped_goes_on(chain: Any, wait_until: Any) -> None:
    writer = chain.module("shadowset.writers.sqlite.main", f"{chain.directory}/*.none")
    wait_until("the writer", lambda: [entry for entry in chain.cli("writers") if entry["connected"]])
    for _ in range(3):
        writer.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        writer.send_signal(signal.SIGCONT)
        time.sleep(0.2)
    assert writer.poll() is None
