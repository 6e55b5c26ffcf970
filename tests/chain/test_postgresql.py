"""The PostgreSQL writer with a real server under load: backed up, destroyed, restored, and the bank balances."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="not installed: psycopg")

from postgresql_server import Cluster, binaries, writer_command, writer_config

from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.enums import Attribute, BackupType, Context

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


def as_owner(chain: Any, command: list[str]) -> list[str]:
    """The command as the clusters' owner, who may be a writer; as root where he cannot reach this Python."""
    owner = pwd.getpwnam("postgres")
    os.makedirs(f"{chain.directory}/config/access.d")
    rule = '[[rule]]\nuser = "postgres"\naccess = "writer"\n'
    Path(f"{chain.directory}/config/access.d/postgresql.toml").write_text(rule)
    chain.environment["SHADOWSET_CONFIG_DIR"] = f"{chain.directory}/config"
    os.chmod(chain.runtime, 0o755)
    chain.daemon.terminate()
    chain.daemon.wait(60)
    chain.start_daemon()
    who = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--init-groups"]
    probe = [*who, sys.executable, "-c", "import shadowset, psycopg"]
    able = subprocess.run(probe, stderr=subprocess.DEVNULL, check=False, cwd="/").returncode == 0
    return [*who, *command] if able else command


LEAST = ("CREATE ROLE backup LOGIN", "GRANT pg_checkpoint, pg_read_all_settings TO backup")


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.vss(111)
def test_a_sealed_copy_holds_a_cluster_that_was_shut_down(
    chain: Any, cluster: Cluster, load: subprocess.Popen[str], wait_until: Any
) -> None:
    """By a writer without privileges, in the server and on the host; the live cluster works on."""
    for statement in LEAST:
        cluster.sql(statement)
    config = writer_config(f"{chain.directory}/postgresql.toml", cluster)
    Path(config).write_text(Path(config).read_text().replace("user=postgres", "user=backup"))
    chain.start(*as_owner(chain, writer_command(config)))
    wait_until("the writer", lambda: [entry for entry in chain.cli("writers") if entry["connected"]])
    before = wait_for_transactions(cluster)
    with BackupComponents(chain.paths) as calls:
        calls.initialize_for_backup()
        calls.set_context(Context.APP_ROLLBACK | Attribute.ROLLBACK_RECOVERY)
        calls.set_backup_state(False, False, BackupType.FULL)
        calls.gather_writer_metadata().result()
        calls.start_snapshot_set()
        for volume in chain.places:
            calls.add_to_snapshot_set(volume)
        calls.prepare_for_backup().result()
        record = calls.do_snapshot_set().result()
        (status,) = calls.gather_writer_status().result()
        assert (status.failure.code, status.failure.message) == (0, "")
    after = wait_for_transactions(cluster, before + 1)
    load.terminate()

    assert all(each.attributes & Attribute.AUTORECOVER for each in record.snapshots)
    places = {}
    for each in record.snapshots:
        done = chain.raw("mount", each.snapshot_id)
        assert done.returncode == 0, done.stderr
        places[each.original_volume] = done.stdout.strip()
    assert "Database cluster state:               shut down\n" in cluster.run(
        "pg_controldata", "-D", f"{places['data']}/main"
    )
    assert len(os.listdir(f"{places['fast']}/wal")) <= 4
    copy = f"{chain.directory}/copy"
    os.mkdir(copy)
    for source in (f"{places['data']}/main", f"{places['fast']}/wal", f"{places['fast']}/away"):
        subprocess.run(["cp", "-a", source, copy], check=True)
    for link, name in (("pg_wal", "wal"), (f"pg_tblspc/{os.listdir(f'{copy}/main/pg_tblspc')[0]}", "away")):
        os.unlink(f"{copy}/main/{link}")
        os.symlink(f"{copy}/{name}", f"{copy}/main/{link}")
    other = Cluster.existing(f"{copy}/main", f"{cluster.runtime}/other", 55461)
    try:
        assert before <= other.balance() <= after
        assert "redo starts" not in Path(f"{other.runtime}/log").read_text()
        other.check_pages()
    finally:
        other.end()
    cluster.balance()


class Ledger:
    """A table into which one number after another is put; each has a moment after it and before the next."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.moments = cluster, [""]
        cluster.sql("CREATE TABLE ledger (number int)")

    def put(self, count: int) -> None:
        for number in range(len(self.moments), len(self.moments) + count):
            self.cluster.sql(f"INSERT INTO ledger VALUES ({number})")
            self.moments.append(str(self.cluster.sql("SELECT clock_timestamp()")[0][0]))
            self.cluster.sql("SELECT pg_sleep(0.002)")

    def numbers(self) -> list[int]:
        return [row[0] for row in self.cluster.sql("SELECT number FROM ledger ORDER BY 1")]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.vss(58, 75, 76)
def test_log_backups_bring_a_cluster_to_any_time(chain: Any, cluster: Cluster, wait_until: Any) -> None:
    archive = f"{chain.places['fast']}/archive"
    os.mkdir(archive)
    shutil.chown(archive, "postgres", "postgres")
    cluster.sql(f"ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'")
    cluster.sql("SELECT pg_reload_conf()")
    config = writer_config(f"{chain.directory}/postgresql.toml", cluster, more=f'archive_directory = "{archive}"\n')
    lines = Path(config).read_text().splitlines(keepends=True)
    Path(config).write_text("".join(line for line in lines if not line.startswith("restore_command")))
    chain.start(*writer_command(config))
    wait_until("the writer", lambda: [entry for entry in chain.cli("writers") if entry["connected"]])
    who = f"PostgreSQL Writer:{cluster.data}"
    full, first, second = (f"{chain.directory}/{name}" for name in ("full", "first", "second"))

    def backed_up(*arguments: str) -> dict[str, Any]:
        done = chain.cli("backup", *arguments)
        (entry,) = done["components"]
        assert (entry["succeeded"], entry.get("why", "")) == (True, ""), done
        found: dict[str, Any] = entry
        return found

    ledger = Ledger(cluster)
    ledger.put(3)
    backed_up(full, "--type", "full")
    ledger.put(3)
    cluster.sql("CREATE DATABASE later")
    log = backed_up(first, "--type", "log", "--base", full)
    assert 1 <= log["files"] <= 5 and log["bytes"] % (16 << 20) < 4096, "segments, and histories"
    ledger.put(3)
    assert backed_up(second, "--type", "log", "--base", first)["bytes"] <= 2 * (16 << 20)
    ledger.put(2)
    cluster.sql("SELECT pg_switch_wal()")

    def restored(*arguments: str) -> list[int]:
        destroy(cluster, chain)
        shutil.rmtree(archive)
        done = chain.cli("restore", *arguments)
        assert done["succeeded"], done
        assert "bank" in json.loads(done["components"][0]["restore_metadata"])["amcheck"]
        return ledger.numbers()

    assert restored(second) == list(range(1, 10)), "no more than the log backup holds"
    assert cluster.databases() == ["bank", "later", "postgres"]
    assert restored(second, "--roll-forward", who, f"partial:{ledger.moments[5]}") == list(range(1, 6))
    assert cluster.databases() == ["bank", "postgres"]
    assert os.stat(archive).st_uid == pwd.getpwnam("postgres").pw_uid
    refused = chain.raw("backup", f"{chain.directory}/third", "--type", "log", "--base", second)
    assert refused.returncode and "was restored or promoted since the base" in refused.stdout + refused.stderr
    cluster.balance()


def test_a_tablespace_outside_every_volume_is_named(chain: Any, cluster: Cluster, writer: Any) -> None:
    outside = f"{cluster.runtime}/outside"
    os.mkdir(outside)
    shutil.chown(outside, "postgres", "postgres")
    cluster.sql(f"CREATE TABLESPACE outside LOCATION '{outside}'")
    done = chain.raw("backup", f"{chain.directory}/backup")
    assert done.returncode != 0
    assert outside in done.stdout + done.stderr
    chain.check_writable()
