"""What happens in a provider is known to the coordinator when it happens, and not at its next look."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

SELDOM = "import sys; from shadowset.daemon import coordinator, main; coordinator.LOOK_AFTER_S = 86400.0; main.main()"


def test_a_lost_copy_is_gone_at_once(chain: Any, wait_until: Any) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    chain.daemon.terminate()
    chain.daemon.wait(60)
    chain.daemon = chain.start(sys.executable, "-c", SELDOM)
    wait_until("the coordinator", chain.daemon_answers)
    wait_until("the volume", lambda: chain.cli("volume", "list")[0]["state"] == "online")
    for _ in range(2):  # the word is asked for again after each time
        chain.cli("storage", "set", "one", "--max-size", "4M")
        (copy,) = chain.cli("create", "one")["snapshots"]
        with open(f"{chain.places['one']}/filler", "wb") as file:
            file.write(os.urandom(16 << 20))
            os.fsync(file.fileno())
        os.unlink(f"{chain.places['one']}/filler")
        wait_until("the copy to be gone", lambda: not chain.cli("list"))
        told = [each["message"] for each in chain.cli("events") if each["name"] in ("copy-lost", "snapshot-lost")]
        assert len([each for each in told if copy["snapshot_id"] in each]) == 2
    assert not Path(copy["device_object"]).exists()
