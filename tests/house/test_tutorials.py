"""What the pages tell people to type: it parses, the certificates are good, the script for CI does what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shadowset.requester.cli import parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs/tutorials").glob("*.md"), ROOT / "docs/from-windows.md", ROOT / "docs/security.md"])


def typed(page: Path) -> list[list[str]]:
    """The ``shadowset`` commands of a page, as words; what stands behind && or # is another one, or none."""
    lines = re.findall(r"^    (.*)$", page.read_text(), flags=re.MULTILINE)
    commands = [part.strip() for line in lines for part in re.split(r"&&|(?<= )#.*", line)]
    return [shlex.split(each)[1:] for each in commands if each.startswith("shadowset ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_commands_of_the_tutorials_exist(page: Path) -> None:
    top = parser()
    for words in typed(page):
        top.parse_args(words)


def test_the_tutorials_have_commands() -> None:
    assert sum(len(typed(page)) for page in PAGES) > 25


def test_certificates_are_made_as_the_tutorial_says(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("not installed: openssl")
    (script,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorials/remote.md").read_text(), flags=re.DOTALL)
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    for name, purpose, host in (("server", "sslserver", "mail"), ("client", "sslclient", "vault")):
        command = ["openssl", "verify", "-CAfile", "ca-cert.pem", "-purpose", purpose, "-verify_hostname", host]
        done = subprocess.run(
            [*command, f"{name}-cert.pem"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (0, f"{name}-cert.pem: OK\n"), done
        assert (tmp_path / f"{name}-key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.long
@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")
def test_the_script_for_ci_does_what_it_says() -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(ROOT / "docs/examples/ci_backup_test.sh")],
        env=environment, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "the backup code does what it should\n", done
    assert not [mount for mount in Path("/proc/self/mounts").read_text().splitlines() if "/backup-test." in mount]
