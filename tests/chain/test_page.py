"""The status page over real volumes, looked at with a real browser."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from shadowset.requester.page.drawing import Sample

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser(http.client.HTTPConnection):
    """One request over the page's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def get(path: str, page: str) -> tuple[int, bytes]:
    browser = Browser(path)
    browser.request("GET", page)
    answer = browser.getresponse()
    body = answer.read()
    browser.close()
    return answer.status, body


def test_the_page_shows_what_there_is(database: str, chain: Any, wait_until: Any) -> None:
    volume = chain.places["one"]
    Path(f"{volume}/<b>&amp;").write_text("odd name")
    backups, path = f"{chain.directory}/backups", f"{chain.runtime}/page.sock"
    Path(backups).mkdir()
    chain.cli("backup", f"{backups}/first")
    made = chain.cli("create", "one", "--context", "client-accessible")
    server = chain.module("shadowset.requester.cli", "page", "--listen", path, "--backups", backups)
    wait_until("the page", lambda: Path(path).exists())
    for page, words in (
        ("/", [b"SQLite Writer", b"online", b"one"]),
        ("/copies", [made["set_id"].encode(), b"HarddiskVolumeShadowCopy"]),
        (f"/set?id={made['set_id']}", [b"freeze", b"commit", b"<rect"]),
        ("/backups", [quote(f"{backups}/first", safe="").encode(), b"complete"]),
        (f"/backup?of={quote(backups)}/first&file=*.db", [b"app.db", b"backed up"]),
        ("/events", [b"set-created"]),
    ):
        status, body = get(path, page)
        assert status == 200, (page, body)
        for word in words:
            assert word in body, (page, word)
    assert get(path, "/set?id=none")[0] == 404
    status, body = get(path, f"/file?of={quote(backups)}/first&path={quote(database)}")
    assert status == 200 and body == Path(f"{backups}/first/files").joinpath(*_stored(backups, database)).read_bytes()
    printed = subprocess.run(
        [sys.executable, "-m", "shadowset.requester.cli", "extract", f"{backups}/first", database, "--print"],
        env=chain.environment,
        capture_output=True,
        check=True,
    )
    assert printed.stdout == body
    refused = chain.raw("extract", f"{backups}/first", "/none", "--print")
    assert refused.returncode == 1 and "/none is in no component of" in refused.stderr
    assert server.poll() is None
    server.terminate()
    server.wait(30)
    assert not Path(path).exists(), "the socket goes with its server"


def test_the_live_view_shows_rates(database: str, chain: Any) -> None:
    load = "import sys,os,time\nf=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\n"
    load += "while True: os.pwrite(f,os.urandom(1<<20),0); os.fsync(f); time.sleep(.05)\n"
    chain.start(sys.executable, "-c", load, f"{chain.places['one']}/busy")
    found = chain.raw("top", "--once", "--interval", "1")
    assert found.returncode == 0, found.stderr
    row = next(line for line in found.stdout.splitlines() if line.startswith("one "))
    assert re.search(r"online +0 +[\d.]+ K?B/s +[\d.]+ [KM]iB/s +[1-9]\d*/s", row), found.stdout
    assert "SQLite Writer" in found.stdout and "volume-attached" in found.stdout
    assert chain.cli("top")["devices"]["one"]["written"] > 1 << 20
    assert "0.1 to 3600" in chain.raw("top", "--interval", "0").stderr


def _stored(backups: str, path: str) -> tuple[str, ...]:
    root = Path(f"{backups}/first/files")
    (found,) = [each for each in root.rglob("*.db") if str(each).endswith(path)]
    return found.relative_to(root).parts


@pytest.mark.skipif(CHROMIUM is None, reason="not installed: chromium")
def test_a_browser_draws_it(database: str, chain: Any, wait_until: Any, tmp_path: Path) -> None:
    """What Chromium makes of the page, from the address with the secret; its pictures are as in the documentation."""
    chain.environment["HOME"] = str(tmp_path)
    made = chain.cli("create", "one", "--context", "app-rollback")
    state = Path(chain.paths.state)
    state.joinpath("page-usage.jsonl").write_bytes(_course())
    log = f"{tmp_path}/address"
    command = [sys.executable, "-m", "shadowset.requester.cli", "page", "--listen", "127.0.0.1:0"]
    with open(log, "wb") as output:
        server = subprocess.Popen(command, env=chain.environment, stdout=output, stdin=subprocess.DEVNULL)
    chain.processes.append(server)
    wait_until("the address", lambda: "\n" in Path(log).read_text())
    base, _, token = Path(log).read_text().strip().partition("/?token=")
    for name, page, expected in (
        ("overview", "/?", (r"<h1>\s*Overview", "SQLite Writer", "<polyline", "<rect")),
        ("set", f"/set?id={made['set_id']}&", (r"<h1>\s*Set", "who did what when", "SQLite Writer", "commit", "<rect")),
    ):
        picture = f"{os.environ.get('SHADOWSET_PICTURES', tmp_path)}/page-{name}.png"
        shown = browse(f"{base}{page}token={token}", picture, str(tmp_path))
        assert all(re.search(each, shown) for each in expected), shown
        assert Path(picture).read_bytes()[:4] == b"\x89PNG" and token not in shown


def browse(address: str, picture: str, profile: str) -> str:
    """The page as the browser has it after loading, and a picture of it."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--no-first-run", f"--user-data-dir={profile}/profile", "--window-size=1200,820"]
    for option in (f"--screenshot={picture}", "--dump-dom"):
        done = subprocess.run([*command, option, address], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    return done.stdout


def _course() -> bytes:
    now = time.time()
    samples = [Sample(now - 86400 + number * 3600, "one", (number % 9) << 20, 16 << 20) for number in range(24)]
    return b"".join(msgspec.json.encode(each) + b"\n" for each in samples)
