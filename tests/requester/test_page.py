"""The status page without a coordinator: nothing from elsewhere becomes markup, and nobody else is let in."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowset.requester.page.drawing import Sample, course, gauge, timeline
from shadowset.requester.page.elements import document, el
from shadowset.requester.page.server import PageServer, listening
from shadowset.requester.page.sources import Sources
from shadowset.requester.page.usage import Usage
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import StorageInfo, TimelineEntry

TOKEN = "a-secret"


@given(st.text())
def test_text_from_elsewhere_stays_text(text: str) -> None:
    page = document(text, el("p", text, el("b", "x"), text, title=text)).decode()
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: seen.append(tag)  # type: ignore[method-assign]
    parser.feed(page[page.index("<main>") :])
    assert seen == ["main", "h1", "p", "b"]


def test_drawings_are_as_large_as_what_they_show() -> None:
    empty, half, over = (gauge(used, 100) for used in (0, 50, 200))
    assert [figure[2].get("width") for figure in (empty, half, over)] == ["0", "60", "120"]
    assert over[2].get("class") == "full" and gauge(5, 0)[0].text == "5 B, no limit"
    line = course([Sample(0, "v", 0, 0), Sample(10, "v", 100, 0)]).find("polyline")
    assert line is not None and line.get("points") == "70.0,100.0 640.0,0.0"
    entries = [TimelineEntry("writer A", "freeze", 0, 10), TimelineEntry("volume", "commit", 10, 20, 0x80042306, "no")]
    bars = timeline(entries).findall("rect")
    assert [bar.get("class") for bar in bars] == ["span", "failed"]
    assert float(bars[1].get("x", 0)) - float(bars[0].get("x", 0)) == float(bars[0].get("width", 0)) == 280
    assert "VSS_E_PROVIDER_VETO: no" in ElementTree.tostring(bars[1], encoding="unicode")


def test_the_course_survives_restarts_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "state" / "usage.jsonl"
    usage = Usage(str(path), lambda: [StorageInfo("v", "/s", 7, 1, 9, "delete-oldest", 80, 1)])
    usage.stop()
    usage.run()
    with open(path, "ab") as file:
        file.write(b'{"time":1,"volume":"v","used":1,"limit":1}\n{"ti')
    again = Usage(str(path), lambda: [])
    again.stop()
    again.run()
    assert [(each.used, each.limit) for each in again.of("v")] == [(7, 9)] and path.read_text().count("\n") == 1


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(Paths(*(str(tmp_path / name) for name in ("run", "state", "etc"))), [str(tmp_path / "backups")])


@pytest.fixture
def port(sources: Sources) -> Iterator[int]:
    with listening("127.0.0.1:0") as (listener, _), PageServer(sources, listener, TOKEN) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield listener.getsockname()[1]
        server.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


def test_only_who_has_the_secret_is_let_in(port: int) -> None:
    assert ask(port, "/")[0] == 403 and ask(port, "/?token=wrong")[0] == 403 and ask(port, "/style.css")[0] == 403
    assert ask(port, "/", Cookie="shadowset=wrong")[0] == 403 and ask(port, "/", Cookie="=;;\x01")[0] == 403
    status, headers, _ = ask(port, f"//elsewhere.example/x?token={TOKEN}")
    assert status == 303 and headers["location"] == "/elsewhere.example/x", "it must not lead away from here"
    status, headers, _ = ask(port, f"/?token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    assert ask(port, f"/set?token={TOKEN}&id=a%26b")[1]["location"] == "/set?id=a%26b"
    assert "HttpOnly; SameSite=Strict" in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    status, headers, text = ask(port, "/", Cookie=cookie)
    assert status == 200 and "No coordinator" in text and "default-src 'none'" in headers["content-security-policy"]
    assert ask(port, "/", Cookie=cookie, Host="evil.example")[0] == 421
    assert ask(port, "/", "HEAD", Cookie=cookie)[2] == ""
    assert ask(port, "/", "POST", Cookie=cookie)[0] == 501 and ask(port, "/", "DELETE", Cookie=cookie)[0] == 501
    assert ask(port, "/copies", Cookie=cookie)[0] == 503 and ask(port, "/none", Cookie=cookie)[0] == 404
    assert ask(port, "/file", Cookie=cookie)[0] == 400


@pytest.mark.parametrize("of", ["/etc", "/", "", "../..", "/proc/self"])
def test_only_backups_of_the_places_are_opened(port: int, tmp_path: Path, of: str) -> None:
    os.mkdir(tmp_path / "backups")
    for path in (f"/file?of={of}&path=/etc/passwd", f"/backup?of={of}", f"/file?of={tmp_path}/backups/..&path=/x"):
        status, _, text = ask(port, path, Cookie=f"shadowset={TOKEN}")
        assert status in (400, 404) and "root:" not in text


def test_addresses_of_others_are_refused(tmp_path: Path) -> None:
    for address in ("0.0.0.0:80", "example.org:80", "127.0.0.1:x", "8471", "127.0.0.1:99999"):
        with pytest.raises(VssError, match="no address of this host alone"), listening(address):
            pass
    path = str(tmp_path / "page.sock")
    with listening(path) as (_, is_unix):
        assert is_unix and os.stat(path).st_mode & 0o777 == 0o600
        with pytest.raises(VssError, match="cannot be listened on"), listening(path):
            pass
    assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with listening(path):
        pass
