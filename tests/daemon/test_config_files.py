"""Time-outs and caps from files: their order, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shadowset.daemon.config import device_group, limit_options
from shadowset.daemon.limits import Limits
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths

GUID = "0b6a3a5e-6a52-4d5c-9f3c-5f3b1f6d7a12"


def write(directory: Path, **files: str) -> Paths:
    (directory / "shadowsetd.d").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        place = directory / "shadowsetd.toml" if name == "main" else directory / "shadowsetd.d" / f"{name}.toml"
        place.write_text(text)
    return Paths(config=str(directory))


def test_later_files_win_and_the_command_line_over_all(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        main=f'[limit]\nhold_ms = 1\nthaw_ms = 1\nsessions = 1\n[writer-window]\n"{{{GUID.upper()}}}" = 5000\n',
        b="[limit]\nhold_ms = 3\nthaw_ms = 3\n",
        a="[limit]\nhold_ms = 2\n",
    )
    files, windows = limit_options(paths)
    limits = Limits.from_options([*files, "thaw_ms=4"], windows)
    assert (limits.sessions, limits.hold_ms, limits.thaw_ms) == (1, 3, 4)
    assert limits.window(GUID, 100) == 5000 and limits.window("another", 100) == 100
    assert limit_options(Paths(config=str(tmp_path / "nowhere"))) == ([], [])


def test_the_group_of_device_objects(tmp_path: Path) -> None:
    assert device_group(write(tmp_path / "one", main="")) == ""
    assert device_group(write(tmp_path / "two", main="[devices]\ngroup = 7", a='[devices]\ngroup = "root"')) == "0"


BAD = {
    "[limits]\nhold_ms = 1": "'limits'",
    "limit = 3": "'limit'",
    "[limit]\nhold = 1": "'limit.hold'",
    "[limit]\nhold_ms = 0": "'limit.hold_ms'",
    "[limit]\nhold_ms = true": "'limit.hold_ms'",
    '[limit]\nhold_ms = "1"': "'limit.hold_ms'",
    "[writer-window]\nSQLite = 1": "'writer-window.SQLite'",
    f"[writer-window]\n{GUID} = -1": f"'writer-window.{GUID}'",
    "[limit": "is not TOML",
    "revert = 1": "'revert'",
    "devices = 1": "'devices'",
    "[devices]\nuser = 1": "'devices'",
    '[devices]\ngroup = "no such group"': "'no such group'",
    "[revert]\nby = []": "'blocked-by'",
    '[revert]\nblocked-by = ["SQLite"]': "'revert.blocked-by'",
    "\udcff": "is not TOML",
}


@pytest.mark.parametrize(("text", "words"), BAD.items())
def test_files_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    paths = write(tmp_path, main="")
    Path(paths.daemon_config).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(VssError, match=r"shadowsetd\.toml: ") as caught:
        limit_options(paths)
    assert words in caught.value.message


def test_the_page_shows_files_that_can_be_used(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "administration.md"
    example = page.read_text().split("```toml\n")[2].split("```")[0]
    files, windows = limit_options(write(tmp_path, main=example))
    assert Limits.from_options(files, windows).creation_idle_ms == 60_000 and len(windows) == 1


@pytest.mark.vss(18)
def test_the_administrators_window_for_one_writer_holds(host: Any) -> None:
    write(Path(host.paths.config), main=f"[writer-window]\n{GUID} = 7000\n")
    host.start()
    host.writer("Patient", writer_id=GUID, freeze_timeout_ms=1000)
    host.writer("Other", freeze_timeout_ms=1000)
    windows = {each.name: each.freeze_window_ms for each in host.requester().call(rp.ListWriters)}
    assert windows == {"Patient": 7000, "Other": 1000}

    def window(writer_id: str, window_ms: int) -> list[int]:
        found = host.requester().call(rp.SetWriterWindow, writer_id=writer_id, window_ms=window_ms)
        return [each.freeze_window_ms for each in found]

    assert window(GUID, 9000) == [9000]  # at once
    assert window(GUID, 0) == [7000]  # as the files say
    assert window("5c5bd54e-8a0a-4ae5-a0a0-7a6cbb3d9f0f", 10) == []  # nobody of that class is here yet
    for wrong in (("no id", 10), (GUID, -1)):
        with pytest.raises(VssError, match="is no window"):
            window(*wrong)
