"""Typing what a page says, on a host that has had nothing of Shadowset yet: a copy of this one, for once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shadowset import __version__

ROOT = Path(__file__).resolve().parents[2]
COPY_OF_HOST = Path(__file__).with_name("copy_of_host.sh")
DONE = "walked through"


def walk(script: str, place: Path) -> None:
    """Run a script there, which finds the Debian package as /srv/shadowset.deb; it ends with the word ``DONE``."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "package/build_deb.py"), str(place)],
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    (place / "copy").mkdir()
    (made,) = place.glob(f"shadowset_{__version__}_*.deb")
    with open(made, "rb") as package:
        command = [str(COPY_OF_HOST), str(place / "copy"), "/bin/sh", "-c", f"cat >/srv/shadowset.deb\n{script}"]
        # into a file: a process that outlived the walk would keep a pipe open
        with open(place / "said", "wb") as said:
            done = subprocess.run(command, stdin=package, stdout=said, stderr=said, timeout=500, check=False)
    told = (place / "said").read_text(errors="replace")
    assert done.returncode == 0 and f"{DONE}\n" in told, told[-6000:]
