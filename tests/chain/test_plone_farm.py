"""A real farm under real requests: Plone sites in PostgreSQL, blobs, a search index, two third parties' databases.

`make test-farm` installs Plone and runs these; its directory is in SHADOWSET_PLONE.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="not installed: psycopg")
pytest.importorskip("pymysql", reason="not installed: PyMySQL")

import groonga_server
import mariadb_server
import postgresql_server
from plone_farm import SITES, VOLUMES, PloneFarm, contents
from rounds import keep, label, row, table

from shadowset.vss.enums import ComponentType, Level
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer

PLONE = os.environ.get("SHADOWSET_PLONE", "")
WRITER = "Plone Farm Writer"
pytestmark = [
    pytest.mark.skipif(not PLONE, reason="Plone is not installed; run make test-farm"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture
def farm(chain: Any, wait_until: Any) -> Iterator[PloneFarm]:
    installed = (postgresql_server.binaries(), mariadb_server.installed(), groonga_server.installed())
    if not all(installed):
        pytest.skip("not installed: postgresql, mariadb-server-core or groonga-bin")
    chain.add_volumes(VOLUMES)
    os.chmod(chain.directory, 0o755)
    for place in chain.places.values():
        os.chmod(place, 0o755)
    top = tempfile.mkdtemp(prefix="ss-farm-", dir="/var/tmp")
    os.chmod(top, 0o755)
    made = PloneFarm(chain, top, os.path.abspath(PLONE))
    try:
        made.make()
        made.start_writers()
        wait_until("five writers", lambda: sum(entry["connected"] for entry in chain.cli("writers")) == 5)
        made.work()
        yield made
    finally:
        made.close()


class Lingering(Writer):
    """Stays in freeze until it is told to go on; it comes after all others."""

    writer_id = "7c1bb7a1-6f0c-4d6a-8a53-0f0d2f3b3c11"
    name = "Lingering"
    level = Level.SYSTEM

    def __init__(self, socket_path: str, files: str) -> None:
        super().__init__(socket_path)
        self.files = files
        self.frozen, self.go = threading.Event(), threading.Event()

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.add_component(ComponentType.FILEGROUP, "store").add_files(self.files, "*")

    def on_freeze(self, event: CurrentEvent) -> None:
        self.frozen.set()
        self.go.wait(30)


@pytest.mark.vss(138)
def test_a_part_of_a_farm_comes_back_and_then_all_of_it(chain: Any, farm: PloneFarm, show: Any) -> None:
    backup = f"{chain.directory}/backup"
    farm.longest = dict.fromkeys(SITES, 0.0)
    record = chain.cli("create", *chain.places)
    done = chain.cli("backup", backup)
    assert all(entry["succeeded"] for entry in done["components"]), done
    at_backup = dict(farm.posted)
    farm.wait_for_pages()
    farm.rest()
    chain.cli("delete", record["set_id"])
    recorded = "SELECT count(*) FROM farm_backups JOIN farm_meta ON key = 'last_backup' AND value = time"
    assert farm.sql(recorded) == [(1,)]
    restore_one(chain, farm, backup)

    farm.overwrite()
    restored = chain.cli("restore", backup)
    assert restored["succeeded"], restored
    counts = farm.check()
    for name, posted in farm.posted.items():
        assert 3 <= counts[name] <= at_backup[name] + 1 < posted
    sites = farm.sql("SELECT path, documents FROM farm_sites ORDER BY path")
    assert sites == [(f"/{site}/site", counts[name] + 1) for name, site in SITES.items()], "the site is a document too"
    assert {row[0] for row in farm.sql("SELECT state FROM farm_databases")} == {"attached"}
    assert farm.sql("SELECT count(*) FROM farm_backups") == [(0,)], "what the register said at the backup"
    writers = sorted({label(entry["writer"], entry) for entry in done["components"]})
    longest, pages = max(farm.longest.values()), sum(counts.values())
    rows = [row(record, done, [writer], f"Plone farm: {writer}", longest, pages) for writer in writers]
    show(table(rows))
    keep("2-plone", rows)


def restore_one(chain: Any, farm: PloneFarm, backup: str) -> None:
    """One content database with its blobs; the other department keeps what it wrote since."""
    kept = farm.pages("c2")
    farm.sql("DELETE FROM object_state WHERE zoid > 0", "plone_c1")
    farm.sql("DELETE FROM farm_sites WHERE database = 'c1'")
    farm.sql("INSERT INTO farm_sites VALUES ('/dept1/of-late', 'c1', 7)")
    told = chain.raw("restore", backup, "--component", f"{WRITER}:Farm/Config/main")
    assert told.returncode == 1 and "cannot be restored by itself; restore 'Farm'" in told.stderr
    cluster = f"PostgreSQL Writer:{farm.cluster.data}"
    wanted = ("--component", f"{WRITER}:Farm/Content/c1", "--component", cluster)
    restored = chain.cli("restore", backup, *wanted, "--option", cluster, '"Database"="plone_c1"')
    assert restored["succeeded"], restored
    assert farm.pages("c2") == kept
    pages = farm.pages("c1")
    assert 3 <= len(pages) < farm.posted["c1"]
    assert farm.sql("SELECT state FROM farm_databases WHERE name = 'c1'") == [("attached",)]
    assert farm.sql("SELECT path, documents FROM farm_sites WHERE database = 'c1'") == [("/dept1/site", len(pages) + 1)]
    for page in pages:
        assert farm.request(f"/dept1/site/{page}/@@download/file", accept="*/*") == contents(page)


@pytest.mark.vss(138)
def test_a_frozen_farm_reads_on_and_its_writer_may_die(chain: Any, farm: PloneFarm, wait_until: Any) -> None:
    the_frozen_farm(chain, farm, wait_until)
    the_killed_writer(chain, farm, wait_until)
    farm.rest()
    farm.check()
    a_store_outside(chain, farm, wait_until)


def the_frozen_farm(chain: Any, farm: PloneFarm, wait_until: Any) -> None:
    lingering = Lingering(chain.paths.writer_socket, f"{farm.files}/store")
    lingering.start()
    try:
        wait_until("six writers", lambda: sum(entry["connected"] for entry in chain.cli("writers")) == 6)
        making = threading.Thread(target=chain.cli, args=("create", *chain.places))
        making.start()
        assert lingering.frozen.wait(60), chain.log()
        posted = dict(farm.posted)
        time.sleep(0.5)
        before = farm.posted["c1"]
        pages = farm.pages("c1")
        assert {f"c1-{number:05d}" for number in range(1, before + 1)} <= pages
        with pytest.raises(Exception, match="the farm is being copied, so its administration is closed"):
            farm.sql("INSERT INTO farm_stores VALUES ('late', '/late')")
        packed = farm.pack()
        assert packed.returncode and "A pack or undo operation is in progress" in packed.stderr
        assert all(farm.posted[name] <= posted[name] + 1 for name in posted), "writes wait"
    finally:
        lingering.go.set()
        making.join(60)
        lingering.stop()
    farm.wait_for_pages()
    farm.sql("INSERT INTO farm_stores VALUES ('late', '/late')")
    farm.sql("DELETE FROM farm_stores WHERE name = 'late'")
    assert farm.pack().returncode == 0
    wait_until("five writers", lambda: sum(entry["connected"] for entry in chain.cli("writers")) == 5)


def the_killed_writer(chain: Any, farm: PloneFarm, wait_until: Any) -> None:
    lingering = Lingering(chain.paths.writer_socket, f"{farm.files}/store")
    lingering.start()
    try:
        wait_until("six writers", lambda: sum(entry["connected"] for entry in chain.cli("writers")) == 6)
        said: list[Any] = []
        making = threading.Thread(target=lambda: said.append(chain.raw("create", *chain.places)))
        making.start()
        assert lingering.frozen.wait(60), chain.log()
        farm.writer.kill()
        farm.wait_for_pages()
    finally:
        lingering.go.set()
        making.join(60)
        lingering.stop()
    assert said[0].returncode and WRITER in said[0].stderr


def a_store_outside(chain: Any, farm: PloneFarm, wait_until: Any) -> None:
    outside = f"{farm.top}/outside"
    os.mkdir(outside)
    farm.chain.module(*farm.writer_command)
    wait_until("the writer", lambda: sum(entry["connected"] for entry in chain.cli("writers")) == 5)
    farm.sql(f"INSERT INTO farm_stores VALUES ('outside', '{outside}')")
    told = chain.raw("backup", f"{chain.directory}/backup", "--component", f"{WRITER}:Farm")
    assert told.returncode and "FileStore\\\\outside" in told.stderr, told.stderr
