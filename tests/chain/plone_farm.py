"""A farm of Plone sites of a test's own, under real requests.

Two sites, each in a content database of its own, mounted in a root database; all of them in one PostgreSQL cluster on
the volume ``data``, beside a MariaDB server of a third party. Blobs, a search index in Groonga and another third
party's SQLite database lie on the volume ``files``. A page goes into its site, then the index, then the third parties.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import groonga_server
import mariadb_server
import postgresql_server

VOLUMES = (("data", "ext4", 1 << 30), ("files", "xfs", 400 << 20))
SITES = {"c1": "dept1", "c2": "dept2"}
USER = "admin:admin"
ZODB = """<zodb_db {name}>
  mount-point {point}
  {container}
  <relstorage>
    keep-history false
    blob-dir {blobs}
    shared-blob-dir true
    <postgresql>
      driver psycopg2
      dsn dbname=plone_{name} host={host} port={port} user=postgres
    </postgresql>
  </relstorage>
</zodb_db>
"""
PACK = """<relstorage>
  keep-history false
  <postgresql>
    driver psycopg2
    dsn dbname=plone_c1 host={host} port={port} user=postgres
  </postgresql>
</relstorage>
"""


def contents(page: str) -> bytes:
    """What the file of a page has to hold."""
    return (page * 400).encode()


class PloneFarm:
    """All of it; ``close`` ends every process."""

    def __init__(self, chain: Any, top: str, environment: str) -> None:
        self.chain, self.top, self._bin = chain, top, f"{environment}/bin"
        self.data, self.files = chain.places["data"], chain.places["files"]
        self.crm = f"{self.files}/crm.db"
        self.posted = dict.fromkeys(SITES, 0)
        self.longest = dict.fromkeys(SITES, 0.0)  # that a page took, in seconds
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._workers: list[threading.Thread] = []

    # --- making it

    def make(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.cluster = postgresql_server.Cluster(f"{self.data}/pg", f"{self.top}/pg")
        for name in ("main", *SITES):
            self.cluster.sql(f"CREATE DATABASE plone_{name}")
        self.cluster.sql("CREATE DATABASE farm_config")
        self.billing = mariadb_server.MariaDb(f"{self.data}/billing", f"{self.top}/billing")
        self.billing.sql("CREATE DATABASE b", "CREATE TABLE b.bills (page VARCHAR(40) PRIMARY KEY)")
        self.index = groonga_server.Groonga(f"{self.files}/index", f"{self.top}/index")
        with contextlib.closing(sqlite3.connect(self.crm)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE orders (page TEXT PRIMARY KEY)")
            database.commit()
        self._make_instance()
        for site in SITES.values():
            self._tool("zconsole", "run", f"{self.top}/zope/etc/zope.conf",
                       str(Path(__file__).with_name("plone_sites.py")), SITE=site)  # fmt: skip
        self.start()
        self._register()

    def _tool(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [f"{self._bin}/{name}", *arguments], capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def _make_instance(self) -> None:
        zope = f"{self.top}/zope"
        self._tool("mkwsgiinstance", "-d", zope, "-u", USER)
        points = {"main": "/", **{name: f"/{site}" for name, site in SITES.items()}}
        text = f"%import relstorage\ninstancehome {zope}\n"
        for name, point in points.items():
            container = "" if name == "main" else "container-class OFS.Folder.Folder"
            text += ZODB.format(name=name, point=point, container=container, blobs=f"{self.files}/blobs/{name}",
                                host=self.cluster.runtime, port=self.cluster.port)  # fmt: skip
        os.makedirs(f"{self.files}/blobs")
        os.makedirs(f"{self.files}/store")
        Path(f"{self.files}/store/logo").write_text("logo")
        Path(f"{zope}/etc/zope.conf").write_text(text)
        ini = Path(f"{zope}/etc/zope.ini")
        ini.write_text(ini.read_text().replace("port = 8080", f"port = {self.url.rpartition(':')[2]}"))
        Path(f"{self.top}/pack.conf").write_text(PACK.format(host=self.cluster.runtime, port=self.cluster.port))
        Path(f"{self.top}/credentials").write_text(f"{USER}\n")
        self._script("start", f"setsid {self._bin}/runwsgi {zope}/etc/zope.ini >>{self.top}/zope.log 2>&1 &\n"
                              f"echo $! >{self.top}/zope.pid\n")  # fmt: skip
        self._script("stop", f"pid=$(cat {self.top}/zope.pid)\nkill $pid 2>/dev/null || exit 0\n"
                             "while kill -0 $pid 2>/dev/null; do sleep 0.1; done\n")  # fmt: skip

    def _script(self, name: str, text: str) -> None:
        Path(f"{self.top}/{name}").write_text(f"#!/bin/sh\n{text}")
        os.chmod(f"{self.top}/{name}", 0o755)

    def _register(self) -> None:
        config = f"{self.top}/plone.toml"
        self.connection = f"host={self.cluster.runtime} port={self.cluster.port} user=postgres dbname=farm_config"
        Path(config).write_text(
            f'name = "test"\n[farm]\nconnection = "{self.connection}"\nurl = "{self.url}"\n'
            f'credentials = "{self.top}/credentials"\n'
            f'stop_command = ["{self.top}/stop"]\nstart_command = ["{self.top}/start"]\n'
        )
        self.writer_command = ("shadowset.writers.plone.main", "--config", config)
        self.chain.module(*self.writer_command, "--create-register").wait(60)
        postgresql = f"'postgresql', '{self.cluster.data}'"
        rows = [f"('main', 'config', {postgresql}, 'plone_main', '/', '{self.files}/blobs/main')",
                f"('register', 'config', {postgresql}, 'farm_config', '', '')",
                f"('crm', 'third-party', 'sqlite', '{self.crm}', '', '', '')",
                f"('billing', 'third-party', 'mariadb', '{self.billing.data}', '', '', '')"]  # fmt: skip
        rows += [f"('{name}', 'content', {postgresql}, 'plone_{name}', '/{site}', '{self.files}/blobs/{name}')"
                 for name, site in SITES.items()]  # fmt: skip
        names = "(name, role, engine, location, database, mount_point, blobs)"
        self.sql(f"INSERT INTO farm_databases {names} VALUES {', '.join(rows)}")
        sites = ", ".join(f"('/{site}/site', '{name}')" for name, site in SITES.items())
        self.sql(f"INSERT INTO farm_sites (path, database) VALUES {sites}")
        self.sql(f"INSERT INTO farm_indexes VALUES ('main', 'groonga', '{self.index.database}')")
        self.sql(f"INSERT INTO farm_stores VALUES ('logos', '{self.files}/store')")

    def start_writers(self) -> None:
        more = f'scratch = "{self.files}/scratch"\n'
        config = postgresql_server.writer_config(f"{self.top}/postgresql.toml", self.cluster, more=more)
        self.chain.start(*postgresql_server.writer_command(config))
        config = mariadb_server.writer_config(f"{self.top}/mariadb.toml", self.billing)
        self.chain.start(*mariadb_server.writer_command(config))
        config = groonga_server.writer_config(f"{self.top}/groonga.toml", self.index)
        self.chain.start(*groonga_server.writer_command(config))
        self.chain.module("shadowset.writers.sqlite.main", self.crm)
        self.writer = self.chain.module(*self.writer_command)

    # --- using it

    def sql(self, statement: str, database: str = "farm_config") -> Any:
        return self.cluster.sql(statement, database)

    def pack(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run([f"{self._bin}/zodbpack", f"{self.top}/pack.conf"], capture_output=True, text=True,
                              timeout=120, check=False)  # fmt: skip

    def start(self) -> None:
        subprocess.run([f"{self.top}/start"], check=True)
        self.wait_for_answers()

    def wait_for_answers(self) -> None:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                self.pages("c1")
                return
            assert time.monotonic() < end, Path(f"{self.top}/zope.log").read_text()[-3000:]
            time.sleep(0.1)

    def request(self, path: str, body: dict[str, Any] | None = None, accept: str = "application/json") -> bytes:
        """Errors: OSError (urllib.error.HTTPError for an answer that is not 2xx)."""
        headers = {"Accept": accept, "Authorization": f"Basic {base64.b64encode(USER.encode()).decode()}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=90) as answer:
            found: bytes = answer.read()
            return found

    def pages(self, name: str) -> set[str]:
        """The ids of a site's pages, by its catalogue."""
        answer = self.request(f"/{SITES[name]}/site/@search?portal_type=File&b_size=100000")
        return {item["@id"].rpartition("/")[2] for item in json.loads(answer)["items"]}

    def work(self) -> None:
        """Starts the load: one client for each site."""
        self._workers = [threading.Thread(target=self._work, args=(name,)) for name in SITES]
        for worker in self._workers:
            worker.start()
        self.wait_for_pages()

    def _work(self, name: str) -> None:
        with (
            contextlib.closing(self.billing.connect()) as billing,
            contextlib.closing(sqlite3.connect(self.crm, timeout=60)) as crm,
        ):
            while not self._stop.is_set():
                number = self.posted[name] + 1
                page, started = f"{name}-{number:05d}", time.monotonic()
                file = {"data": base64.b64encode(contents(page)).decode(), "encoding": "base64",
                        "filename": f"{page}.txt", "content-type": "text/plain"}  # fmt: skip
                try:
                    body = {"@type": "File", "id": page, "title": page, "file": file}
                    self.request(f"/{SITES[name]}/site", body)
                    entry = {"_key": page, "body": f"{page} alpha", "number": number}
                    assert self.index.ask("load?table=Docs", [entry]) == 1
                    crm.execute("INSERT INTO orders VALUES (?)", (page,))
                    crm.commit()
                    with billing.cursor() as cursor:
                        cursor.execute("INSERT INTO b.bills VALUES (%s)", (page,))
                except Exception as error:  # told by the test
                    self.errors.append(f"{page}: {error}")
                    return
                self.posted[name] += 1
                self.longest[name] = max(self.longest[name], time.monotonic() - started)

    def wait_for_pages(self, count: int = 3) -> None:
        before, end = dict(self.posted), time.monotonic() + 90
        while any(now < before[name] + count for name, now in self.posted.items()):
            assert not self.errors, self.errors
            assert time.monotonic() < end, f"the farm stands still: {self.posted}"
            time.sleep(0.05)

    def rest(self) -> None:
        """Ends the load."""
        self._stop.set()
        for worker in self._workers:
            worker.join(120)
        self._workers, self._stop = [], threading.Event()

    def check(self) -> dict[str, int]:
        """Fails unless pages, blobs, index and third parties agree; the number of pages of each site."""
        counts = {}
        bills = {row[0] for row in self.billing.sql("SELECT page FROM b.bills")}
        chain = [self._entries(), self._orders(), bills]
        for name, site in SITES.items():
            pages = self.pages(name)
            for page in pages:
                url = f"/{site}/site/{page}/@@download/file"
                assert self.request(url, accept="*/*") == contents(page), page
            before = pages
            for rows in chain:
                mine = {row for row in rows if row.startswith(name)}
                assert mine <= before and len(before - mine) <= 1, (name, len(before), len(mine))
                before = mine
            counts[name] = len(pages)
        return counts

    def _entries(self) -> set[str]:
        """Pages that a search finds; all that have an entry."""
        shown = "table=Docs&limit=-1&output_columns=_key"
        everything, found = (
            {row[0] for row in self.index.ask(f"select?{shown}{how}")[0][2:]}
            for how in ("", "&match_columns=body&query=alpha")
        )
        assert found == everything
        return everything

    def _orders(self) -> set[str]:
        with contextlib.closing(sqlite3.connect(self.crm)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return {row[0] for row in database.execute("SELECT page FROM orders")}

    def overwrite(self) -> None:
        """The catastrophe: the servers die, and every file of the farm is filled with garbage."""
        for server in (self.cluster, self.billing, self.index):
            server.end()
        for root in (self.data, self.files):
            for file in Path(root).rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.write_bytes(os.urandom(max(512, min(file.stat().st_size // 2, 65536))))

    def close(self) -> None:
        self.rest()
        if os.path.exists(f"{self.top}/stop"):
            subprocess.run([f"{self.top}/stop"], stderr=subprocess.DEVNULL, timeout=60, check=False)
        for name in ("cluster", "billing", "index"):
            if hasattr(self, name):
                getattr(self, name).end()
        shutil.rmtree(self.top, ignore_errors=True)
