"""What ``shadowset writers detect`` finds, and that the writers take what it proposes."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import sqlite3
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.detect import applications
from shadowset.requester.detect.applications import Proposal, detect
from shadowset.requester.detect.host import Host
from shadowset.requester.detect.write import write
from shadowset.vss.codes import VssError
from shadowset.writers.groonga.settings import Settings as Groonga
from shadowset.writers.hooks.settings import Settings as Hooks
from shadowset.writers.index.settings import Settings as Index
from shadowset.writers.mariadb.settings import Settings as Mariadb
from shadowset.writers.oracle.settings import Settings as Oracle
from shadowset.writers.postgresql.settings import Settings as Postgresql
from shadowset.writers.qemu.settings import Settings as Qemu
from shadowset.writers.redis.settings import Settings as Redis
from shadowset.writers.server_settings import read_settings
from shadowset.writers.sqlite.main import read_config
from shadowset.writers.system.settings import Settings as System

SETTINGS: dict[str, Any] = {
    "postgresql.toml": Postgresql, "mariadb.toml": Mariadb, "redis.toml": Redis, "groonga.toml": Groonga,
    "index.toml": Index, "qemu.toml": Qemu, "oracle.toml": Oracle, "hooks.toml": Hooks, "system.toml": System,
}  # fmt: skip


class MadeHost:
    """A /proc with the processes that a test wants."""

    def __init__(self, top: Path) -> None:
        self.proc, self.top = top / "proc", top
        (self.proc / "net").mkdir(parents=True)
        self.sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n"
        self.pid = 100

    def add(self, name: str, *words: str, sockets: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> Path:
        self.pid += 1
        top, home = self.proc / str(self.pid), self.top / f"home{self.pid}"
        (top / "fd").mkdir(parents=True)
        home.mkdir()
        (top / "comm").write_text(f"{name}\n")
        (top / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in (name, *words)))
        (top / "cwd").symlink_to(home)
        for number, path in enumerate(sockets):
            inode = self.pid * 10 + number
            self.sockets += f"0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {path}\n"
            (top / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        for number, path in enumerate(files, 50):
            (top / "fd" / str(number)).symlink_to(path)
        return home

    def look(self) -> Host:
        (self.proc / "net" / "unix").write_text(self.sockets)
        return Host(str(self.proc))


@pytest.fixture
def made(tmp_path: Path) -> MadeHost:
    return MadeHost(tmp_path)


def check(proposal: Proposal, directory: Path) -> Any:
    """The writer's own reader takes the file."""
    path = directory / proposal.file
    path.write_text(proposal.text)
    if proposal.file.startswith("sqlite-"):
        return read_config(str(path))
    return read_settings(str(path), SETTINGS[proposal.file])


def test_servers_of_all_kinds(made: MadeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "LIBVIRT_GUESTS", str(tmp_path / "none" / "*.xml"))
    cluster = made.add("postgres", "-D", "/x")
    (cluster / "postmaster.pid").write_text(f"{made.pid}\n{cluster}\n1\n5433\n/run/pg\n*\n")
    made.add("postgres", "checkpointer")
    sockets = [str(tmp_path / name) for name in ("mysqld.sock", "other.sock", "redis.sock")]
    for path in (*sockets, str(tmp_path / "ibdata1")):
        Path(path).touch()
    made.add("mariadbd", f"--datadir={tmp_path}", sockets=(sockets[0], sockets[1], "/run/gone.sock"))
    keys = made.add("redis-server", sockets=(sockets[2],))
    (tmp_path / "index").touch()
    made.add("groonga", "-s", "--protocol", "http", "-p", "10042", str(tmp_path / "index"))
    made.add("qemu-system-x86", "-name", "web")
    made.add("ora_pmon_SHOP")
    found = {proposal.file: proposal for proposal in detect(made.look())}
    settings = {file: check(proposal, tmp_path) for file, proposal in found.items()}
    (one,) = settings["postgresql.toml"].cluster
    assert (one.connection, one.data_directory) == ("host=/run/pg port=5433 dbname=postgres", str(cluster))
    (server,) = settings["mariadb.toml"].server
    assert (server.socket, server.data_directory) == (sockets[0], str(tmp_path))
    (store,) = settings["redis.toml"].server
    assert (store.socket, store.data_directory) == (sockets[2], str(keys))
    (index,) = settings["groonga.toml"].server
    assert (index.database, index.url) == (str(tmp_path / "index"), "http://127.0.0.1:10042")
    assert settings["oracle.toml"].database[0].dsn == "localhost/SHOP"
    assert "never tested on the product" in found["oracle.toml"].advice
    assert (settings["qemu.toml"].guest, found["qemu.toml"].found) == ([], "1 guests")
    assert found["redis.toml"].unit == "shadowset-writer-redis"
    units = Path(__file__).resolve().parents[2] / "systemd"
    for proposal in found.values():
        assert (units / f"{proposal.unit.partition('@')[0]}{'@' * ('@' in proposal.unit)}.service").exists()


def test_a_server_that_cannot_be_reached_is_told(made: MadeHost) -> None:
    made.add("redis-server")
    (proposal,) = applications.redis(made.look())
    assert proposal.text == ""
    assert "set unixsocket in its redis.conf" in proposal.advice


def test_a_farm_has_to_be_described(made: MadeHost) -> None:
    made.add("python3", "/srv/zope/bin/runwsgi", "/srv/zope/etc/zope.ini")
    made.add("vi", "/srv/zope/etc/zope.ini")
    (proposal,) = applications.plone(made.look())
    assert (proposal.text, proposal.unit) == ("", "shadowset-writer-plone")
    assert "docs/writers/plone.md" in proposal.advice and proposal.found.count("process") == 1


def test_an_idle_host_has_its_system_alone(made: MadeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "HOOKS", (str(made.top / "none"),))
    monkeypatch.setattr(applications, "LIBVIRT_GUESTS", str(made.top / "none" / "*.xml"))
    made.add("sh")
    (made.proc / "7").mkdir()  # a process that has ended meanwhile
    assert [proposal.file for proposal in detect(made.look())] == ["system.toml"]


def test_guests_under_libvirt(made: MadeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "LIBVIRT_GUESTS", str(tmp_path / "*.xml"))
    monitor = ("-chardev", "socket,id=charmonitor,fd=28,server=on,wait=off")
    made.add("qemu-system-x86", "-name", "guest=web,debug-threads=on", *monitor)
    made.add("qemu-system-x86", "-name", "plain")
    for name in ("web", "off"):
        (tmp_path / f"{name}.xml").touch()
    (proposal,) = applications.qemu(made.look())
    assert proposal.found == "3 guests, 2 of them under libvirt"
    assert "python3-libvirt" in proposal.advice
    check(proposal, tmp_path)


def test_hooks_that_are_there(made: MadeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hooks.d").mkdir()
    monkeypatch.setattr(applications, "HOOKS", (str(tmp_path / "hooks.d"),))
    monkeypatch.setattr(applications, "SNAPPER", str(tmp_path / "plugins"))
    assert applications.hooks(made.look()) == []
    (tmp_path / "hooks.d" / "one").touch()
    (proposal,) = applications.hooks(made.look())
    assert check(proposal, tmp_path).hook == [] and not proposal.advice
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "10-one").touch()
    (proposal,) = applications.hooks(made.look())
    assert "named with their subvolume" in proposal.advice and proposal.text
    (tmp_path / "hooks.d" / "one").unlink()
    (proposal,) = applications.hooks(made.look())
    assert proposal.advice and not proposal.text


def test_open_databases_and_sockets_of_this_very_process() -> None:
    if os.geteuid():
        pytest.skip("needs root, for a directory that is none of the temporary ones")
    with tempfile.TemporaryDirectory(prefix='ss-"d-', dir="/var/lib") as top:
        path = f"{top}/app.db"
        Path(f"{top}/plain").write_text("no data base")
        with contextlib.closing(sqlite3.connect(path)) as connection, open(f"{top}/plain", "rb"):
            connection.execute("create table t(x)")
            connection.commit()
            host = Host()
            proposals = applications.sqlite(host)
            user = pwd.getpwuid(os.getuid()).pw_name
            (proposal,) = [each for each in proposals if each.file == f"sqlite-{user}.toml"]
            databases = tomllib.loads(proposal.text)["databases"]
            assert path in databases
            assert f"{top}/plain" not in databases
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
            listening.bind(f"{top}/s")
            assert f"{top}/s" not in own_sockets()
            listening.listen()
            assert f"{top}/s" in own_sockets()


def test_indexes_that_a_process_has_open_or_mapped(
    made: MadeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applications, "NOT_OURS", ())
    files = {
        "x": ("iamglass", "postlist.glass"),
        "t": ("meta.json", ".managed.json", "1.store"),
        "none": ("meta.json",),
    }
    for directory, names in files.items():
        (tmp_path / directory).mkdir()
        for name in names:
            (tmp_path / directory / name).touch()
    made.add("indexer", files=(str(tmp_path / "x" / "postlist.glass"), str(tmp_path / "none" / "meta.json")))
    made.add("search")
    maps = f"7f00-7f01 r--s 00000000 00:01 12                 {tmp_path}/t/1.store\n7f02-7f03 rw-p 00000000 00:00 0\n"
    (made.proc / str(made.pid) / "maps").write_text(maps)
    (proposal,) = applications.index(made.look())
    found = check(proposal, tmp_path).index
    assert [(each.kind, each.path) for each in found] == [
        ("tantivy", str(tmp_path / "t")),
        ("xapian", str(tmp_path / "x")),
    ]
    assert (proposal.writer, proposal.found) == ("Search Index Writer", "2 search indexes")


def own_sockets() -> list[str]:
    host = Host()
    (own,) = [process for process in host.processes if process.pid == os.getpid()]
    return host.listening(own)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    directory = tmp_path / "etc" / "writers.d"
    proposals = [Proposal("A", "x", "a.toml", "u", "new\n"), Proposal("B", "x", "b.toml", "u", ""),
                 Proposal("C", "x", "c.toml", "u", "new\n")]  # fmt: skip
    directory.mkdir(parents=True)
    (directory / "a.toml").write_text("mine\n")
    assert write(proposals, str(directory)) == {f"{directory}/a.toml": False, f"{directory}/c.toml": True}
    assert (directory / "a.toml").read_text() == "mine\n"
    (tmp_path / "file").touch()
    with pytest.raises(VssError, match="cannot be written"):
        write(proposals, str(tmp_path / "file" / "writers.d"))
