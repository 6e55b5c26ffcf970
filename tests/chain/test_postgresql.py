"""The PostgreSQL writer with a real server under load: backed up, destroyed, restored, and the bank balances."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="not installed: psycopg")

from postgresql_server import Cluster, binaries, writer_command, writer_config

VOLUMES = (("data", "ext4", 640 << 20), ("fast", "xfs", 320 << 20))


@pytest.fixture
def cluster(chain: Any) -> Iterator[Cluster]:
    if not binaries():
        pytest.skip("not installed: postgresql")
    chain.add_volumes(VOLUMES)
    os.chmod(chain.directory, 0o755)
    runtime = tempfile.mkdtemp(prefix="ss-pg-", dir="/tmp")
    os.chmod(runtime, 0o755)
    for place in chain.places.values():
        os.chmod(place, 0o755)
    made = None
    try:
        made = Cluster(
            f"{chain.places['data']}/main", f"{runtime}/run",
            wal=f"{chain.places['fast']}/wal", tablespace=f"{chain.places['fast']}/away",
        )  # fmt: skip
        made.fill(tablespace="away")
        yield made
    finally:
        if made is not None:
            made.end()
        shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def writer(chain: Any, cluster: Cluster, wait_until: Any) -> Any:
    more = f'scratch = "{chain.directory}/scratch"\n'
    config = writer_config(f"{chain.directory}/postgresql.toml", cluster, more=more)
    process = chain.start(*writer_command(config))
    wait_until("the writer", lambda: [entry for entry in chain.cli("writers") if entry["connected"]])
    return process


@pytest.fixture
def load(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    process = cluster.load()
    yield process
    process.terminate()  # runuser hands it on; killed, it would leave pgbench and its end of the pipe behind
    process.communicate()


def wait_for_transactions(cluster: Cluster, number: int = 200) -> int:
    end = time.monotonic() + 60
    while True:
        count = int(cluster.sql("SELECT count(*) FROM pgbench_history", "bank")[0][0])
        if count >= number:
            return count
        assert time.monotonic() < end, "the bank stands still"
        time.sleep(0.05)


def destroy(cluster: Cluster, chain: Any) -> None:
    cluster.end()
    for directory in (cluster.data, f"{chain.places['fast']}/wal", f"{chain.places['fast']}/away"):
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cluster_on_two_volumes_comes_back_as_it_was(
    chain: Any, cluster: Cluster, writer: Any, load: subprocess.Popen[str]
) -> None:
    before = wait_for_transactions(cluster)
    done = chain.cli("backup", f"{chain.directory}/backup")
    assert [(entry["succeeded"], entry.get("reason", "")) for entry in done["components"]] == [(True, "")]
    after = wait_for_transactions(cluster, before + 1)
    load.terminate()
    destroy(cluster, chain)
    Path(f"{cluster.data}/stale").write_text("of no backup")

    restored = chain.cli("restore", f"{chain.directory}/backup")
    assert restored["succeeded"], restored
    assert before <= cluster.balance() <= after
    assert not os.path.exists(f"{cluster.data}/stale")
    cluster.check_pages()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_database_comes_back_beside_the_others(
    chain: Any, cluster: Cluster, writer: Any, load: subprocess.Popen[str]
) -> None:
    """Under a new name while the old one is in use, then under its own; the other databases are not touched."""
    cluster.sql("REVOKE CONNECT ON DATABASE bank FROM PUBLIC; CREATE TABLE kept (x int)")
    before = wait_for_transactions(cluster)
    backup = f"{chain.directory}/backup"
    chain.cli("backup", backup)
    after = wait_for_transactions(cluster, before + 1)
    cluster.sql("INSERT INTO kept VALUES (1)")
    who = f"PostgreSQL Writer:{cluster.data}"
    one = ("restore", backup, "--option", who, '"Database"="bank"')

    refused = chain.cli(*one, "--rename", who, "postgres", status=1)
    assert "there is a database postgres already" in str(refused)
    restored = chain.cli(*one, "--rename", who, "bank_then")
    assert restored["succeeded"], restored
    assert before <= cluster.balance("bank_then") <= after
    assert cluster.databases() == ["bank", "bank_then", "postgres"]
    wait_for_transactions(cluster, after + 1)
    rights = "SELECT datacl::text[] FROM pg_database WHERE datname LIKE 'bank%'"
    assert [sorted(row[0]) for row in cluster.sql(rights)] == [["=T/postgres", "postgres=CTc/postgres"]] * 2

    cluster.sql("DELETE FROM pgbench_accounts; DROP TABLE pgbench_history CASCADE", "bank")
    restored = chain.cli(*one)
    assert restored["succeeded"], restored
    assert before <= cluster.balance() <= after
    assert cluster.databases() == ["bank", "bank_then", "postgres"]
    assert cluster.sql("SELECT x FROM kept") == [(1,)]
    assert not [files for _, _, files in os.walk(f"{chain.directory}/scratch") if files]


def test_a_tablespace_outside_every_volume_is_named(chain: Any, cluster: Cluster, writer: Any) -> None:
    outside = f"{cluster.runtime}/outside"
    os.mkdir(outside)
    shutil.chown(outside, "postgres", "postgres")
    cluster.sql(f"CREATE TABLESPACE outside LOCATION '{outside}'")
    done = chain.raw("backup", f"{chain.directory}/backup")
    assert done.returncode != 0
    assert outside in done.stdout + done.stderr
    chain.check_writable()
