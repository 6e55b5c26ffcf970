"""A whole volume goes back to a shadow copy, through the command line and a restart of everything."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SIZE = 48 << 20


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def image(chain: Any) -> str:
    """The origin of a protected volume v that is not attached."""
    path = f"{chain.directory}/v.img"
    Path(path).write_bytes(os.urandom(SIZE))
    chain.cli("volume", "add", "v", path)
    return path


def overwrite(chain: Any) -> None:
    """Other content everywhere, through the live device."""
    device = chain.cli("volume", "attach", "v")["device"]
    try:
        fd = os.open(device, os.O_WRONLY)
        try:
            for _ in range(SIZE >> 20):
                os.write(fd, os.urandom(1 << 20))
            os.fsync(fd)
        finally:
            os.close(fd)
    finally:
        chain.raw("volume", "detach", "v")


def made(chain: Any) -> Any:
    chain.cli("create", "v")
    return max(chain.cli("list"), key=lambda copy: int(copy["device_number"]))


@pytest.mark.vss(115)
def test_a_reverted_volume_is_as_the_copy_and_all_copies_stay(chain: Any, image: str) -> None:
    before = digest(image)
    first = made(chain)
    overwrite(chain)
    between = digest(image)
    second = made(chain)
    overwrite(chain)
    assert len({before, between, digest(image)}) == 3
    answer = chain.cli("revert", first["snapshot_id"], "--yes")
    assert (answer["volume"], answer["phase"]) == ("v", "none")
    assert digest(image) == before
    assert digest(first["device_object"]) == before
    assert digest(second["device_object"]) == between
    names = [event["name"] for event in chain.cli("events")]
    assert "snapshot-deleted" not in names
    chain.cli("revert", second["snapshot_id"], "--yes")
    assert digest(image) == between and digest(first["device_object"]) == before


@pytest.mark.vss(115)
def test_a_revert_goes_on_after_its_provider_was_killed(
    chain: Any, image: str, wait_until: Callable[[str, Callable[[], Any]], Any]
) -> None:
    before = digest(image)
    copy = made(chain)
    overwrite(chain)
    chain.cli("revert", copy["snapshot_id"], "--yes", "--no-wait")
    try:
        os.kill(chain.describe("v").pid, signal.SIGKILL)
    except ConnectionError:
        pass
    wait_until("the provider to be back", lambda: chain.cli("volume", "list")[0]["state"] == "online")
    wait_until("the revert to end", lambda: chain.describe("v").revert is None)
    assert digest(image) == before and digest(copy["device_object"]) == before


def test_what_cannot_be_reverted_is_refused_in_a_sentence(chain: Any, image: str) -> None:
    copy = made(chain)
    device = chain.cli("volume", "attach", "v")["device"]
    done = chain.raw("revert", copy["snapshot_id"], "--yes")
    assert done.returncode == 1 and f"attached as {device}" in done.stderr and "detach it first" in done.stderr
    chain.raw("volume", "detach", "v")
    done = chain.raw("revert", copy["snapshot_id"])
    assert done.returncode == 2 and "give --yes" in done.stderr
