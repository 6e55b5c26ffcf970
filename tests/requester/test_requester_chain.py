"""The command against the real coordinator, provider, device and writer: one ext4 volume with a SQLite data base."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup.mounts import read_mounts

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="needs loop devices"),
    pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs mkfs.ext4"),
]


class House:
    """A coordinator with the volume ``data``, mounted, and a writer for the data base on it."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.environment = {
            **os.environ,
            "SHADOWSET_RUNTIME_DIR": f"{directory}/run",
            "SHADOWSET_STATE_DIR": f"{directory}/state",
        }
        self.mount = self.directory / "mnt"
        self.database = self.mount / "db" / "orders.db"
        self.children: list[subprocess.Popen[bytes]] = []

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            "import sys; from shadowset.requester.cli import main; sys.exit(main())",
            *arguments,
        ]

    def run(self, *arguments: str, check: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == check, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout if check == 0 else done.stderr

    def quietly(self, *arguments: str) -> int:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, timeout=60, check=False
        )
        return done.returncode

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.directory / "log", "ab") as log:
            child = subprocess.Popen(arguments, env=self.environment, stderr=log, stdout=log, start_new_session=True)
        self.children.append(child)
        return child

    def serve(self) -> subprocess.Popen[bytes]:
        child = self.start(*self.command("serve"))
        self.wait(lambda: self.quietly("status") == 0)
        return child

    def write_with_writer(self) -> subprocess.Popen[bytes]:
        child = self.start(sys.executable, "-m", "shadowset.writers.sqlite.main", str(self.database))
        self.wait(lambda: len(self.ask("writers")) == 1)
        return child

    def wait(self, condition: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.1)

    def rows(self, path: Path | None = None) -> int:
        with contextlib.closing(sqlite3.connect(path or self.database)) as connection:
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
            return int(connection.execute("select count(*) from t").fetchone()[0])

    def execute(self, statement: str) -> None:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute(statement)
            connection.commit()

    def set_up(self) -> None:
        image = self.directory / "data.img"
        with open(image, "wb") as file:
            file.truncate(48 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        self.serve()
        self.run("volume", "add", "data", str(image))
        device = self.ask("volume", "attach", "data")["device"]
        self.mount.mkdir()
        subprocess.run(["mount", device, str(self.mount)], check=True)
        self.database.parent.mkdir()
        self.execute("create table t(x)")
        self.execute("insert into t select value from json_each('[" + ",".join(map(str, range(1000))) + "]')")

    def tear_down(self) -> None:
        for mount in sorted((mount.path for mount in read_mounts()), reverse=True):
            if mount.startswith(f"{self.directory}/mnt") or mount.startswith(f"{self.directory}/run/mnt"):
                subprocess.run(["umount", "-l", mount], check=False)
        for arguments in (("volume", "detach", "data"), ("volume", "remove", "data", "--force")):
            self.quietly(*arguments)
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
        for pid in self.left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in sorted((mount.path for mount in read_mounts()), reverse=True):
            if mount.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", mount], check=False)

    def left_over(self) -> list[int]:
        """Processes that name this test's own directory."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                    if os.fsencode(f"{self.directory}/") in file.read():
                        found.append(int(name))
        return found


@pytest.fixture
def house(short_dir: str) -> Iterator[House]:
    made = House(short_dir)
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


def test_backup_and_restore_of_a_live_data_base(house: House) -> None:
    writer = house.write_with_writer()
    target = str(house.directory / "b")
    report = house.ask("backup", target)
    assert report["succeeded"] and report["volumes"] == ["data"] and report["files"] >= 1
    house.wait(lambda: house.ask("list") == [])
    house.execute("delete from t where x > 9")
    assert house.rows() == 10
    writer.terminate()
    writer.wait(10)
    house.wait(lambda: not any(one["connected"] for one in house.ask("writers")))
    error = house.run("restore", target, check=1)
    assert "does not run" in error and house.rows() == 10
    house.write_with_writer()
    assert house.ask("restore", target)["succeeded"], "the writer that runs now is another instance"
    assert house.rows() == 1000
    house.run("restore", target, "--to", str(house.directory / "look"))
    assert house.rows(Path(f"{house.directory}/look{house.database}")) == 1000
    on_volume = house.run("backup", str(house.mount / "b"), check=1)
    assert "lies on volume data" in on_volume


# The sample configurations of the published tools, with the paths of this host.
BETEST_SAMPLE = """<BETest>
    <Writer writerid="5affb034-969f-4919-8875-88f830d0ef89">
        <Component componentName="TestFiles">
        </Component>
    </Writer>
</BETest>"""
WRITER_SAMPLE = """<TestWriter usage="USER_DATA" deleteFiles="{delete}" checkIncludes="yes" checkExcludes="yes">
    <RestoreMethod method="RESTORE_IF_CAN_BE_REPLACED" writerRestore="always" rebootRequired="no" />
    <ExcludeFile path="{path}" filespec="temp*.*" recursive="no" />
    <Component componentType="filegroup" componentName="TestFiles">
        <ComponentFile path="{path}" filespec="*" recursive="no" {alternate} />
    </Component>
</TestWriter>"""


@pytest.mark.vss(130)
@pytest.mark.parametrize("spit", [False, True])
def test_the_published_flow_of_the_test_tools(house: House, spit: bool) -> None:
    place = house.mount / "TestPath"
    place.mkdir()
    (place / "spit").mkdir()
    contents = {f"file{number}.txt": os.urandom(5000 * number) for number in range(4)}
    for name, data in contents.items():
        (place / name).write_bytes(data)
    (place / "temp1.txt").write_bytes(b"excluded")
    alternate = f'alternatePath="{place}/spit"' if spit else ""
    config = house.directory / "VswriterSample.xml"
    config.write_text(WRITER_SAMPLE.format(path=place, delete="yes" if spit else "no", alternate=alternate))
    (house.directory / "BetestSample.xml").write_text(BETEST_SAMPLE)
    house.start(sys.executable, "-m", "shadowset.writers.testwriter.main", str(config))
    house.wait(lambda: len(house.ask("writers")) == 1)
    names = ("/S", f"{house.directory}/backup.xml", "/D", f"{house.directory}/BackupDestination",
             "/X", f"{house.directory}/BetestSample.xml", "/V")  # fmt: skip
    told = house.run("betest", "/B", *names)
    assert "TestFiles" in told and "backed up" in told and "volumes data cut within" in told
    assert (place / "file1.txt").exists() != spit, "this writer deletes what it has spat"
    assert "backupSucceeded" in (house.directory / "backup.xml").read_text()
    for path in place.iterdir():
        if path.is_file():
            path.unlink()
    assert "restored" in house.run("betest", "/R", *names), (
        "the writer has checked every file and found no excluded one"
    )
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == contents


INCREMENTAL_WRITER = """
supports_incremental = true
delete_differenced_files = true
delete_partial_files = true
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "filegroup"
component_name = "files"
stamps = true
component_file = [{{ path = "{path}", filespec = "*", inc_backup_required = false }}]
differenced_file = [{{ path = "{path}", filespec = "*.db", since = 0 }}]
partial_file = [{{ path = "{path}", filespec = "parts", ranges = "0:4096,100000:5000" }}]
"""


@pytest.mark.vss(60, 61)
def test_an_increment_is_read_from_the_shadow_copies(house: House) -> None:
    """The writer deletes its changed files on the live volume as soon as the shadow copies exist."""
    place = house.mount / "files"
    place.mkdir()
    contents = {name: os.urandom(200_000) for name in ("same.db", "changed.db", "parts", "other")}
    for name, data in contents.items():
        (place / name).write_bytes(data)
    (house.directory / "writer.toml").write_text(INCREMENTAL_WRITER.format(path=place))
    house.start(sys.executable, "-m", "shadowset.writers.testwriter.main", str(house.directory / "writer.toml"))
    house.wait(lambda: len(house.ask("writers")) == 1)
    assert house.ask("backup", f"{house.directory}/full", "--type", "full")["succeeded"]
    assert [path.name for path in place.iterdir()] == ["other"]
    for name in ("same.db", "changed.db", "parts"):
        (place / name).write_bytes(contents[name])
    os.utime(place / "same.db", (0, 0))
    contents["changed.db"] = os.urandom(300_000)
    (place / "changed.db").write_bytes(contents["changed.db"])
    report = house.ask("backup", f"{house.directory}/one", "--type", "incremental", "--base", "auto")
    assert report["succeeded"] and report["base"] == f"{house.directory}/full"
    assert [path.name for path in place.iterdir()] == ["other"]
    assert house.ask("restore", f"{house.directory}/one")["succeeded"]
    restored = {path.name: path.read_bytes() for path in place.iterdir()}
    parts = restored.pop("parts")
    assert parts[:4096] == contents["parts"][:4096] and parts[100_000:105_000] == contents["parts"][100_000:105_000]
    assert restored == {name: data for name, data in contents.items() if name != "parts"}


def test_sets_live_as_long_as_they_should(house: House) -> None:
    house.write_with_writer()
    house.run("create", "data")
    copies = house.ask("list")
    assert len(copies) == 1 and "PERSISTENT" in copies[0]["attributes"]
    where = house.run("mount", "1").strip()
    assert house.rows() == 1000 and os.path.exists(f"{where}/db/orders.db")
    house.run("umount", "1")
    assert "Timeline" in house.run("show", copies[0]["snapshot_set_id"][:8], "--timeline")
    command = 'test -f "$SHADOWSET_MOUNT_DATA/db/orders.db" && exit 5'
    assert house.run("create", "data", "--exec", command, check=5) == ""
    assert len(house.ask("list")) == 1
    house.run("create", "data", "--no-writers")
    house.run("delete", "--all", "--yes")
    assert house.ask("list") == []


def test_an_interrupted_or_orphaned_command_leaves_nothing(house: House) -> None:
    house.write_with_writer()
    for number in (signal.SIGINT, signal.SIGKILL):
        # Without standard error, which would keep the pipe open after a kill.
        command = f"echo $$ >{house.directory}/pid; exec sleep 30 2>&-"
        process = subprocess.Popen(
            house.command("create", "data", "--exec", command), env=house.environment, stderr=subprocess.PIPE
        )
        house.wait((house.directory / "pid").exists)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), err
        house.wait(lambda: house.ask("list") == [])
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((house.directory / "pid").read_text()), signal.SIGKILL)
        (house.directory / "pid").unlink()
    house.execute("insert into t values (1)")
    assert house.ask("create", "data")["status"] == "CREATED"


def test_a_coordinator_killed_in_the_middle_of_a_backup(house: House) -> None:
    house.write_with_writer()
    (house.mount / "db" / "orders.db-big").write_bytes(os.urandom(1 << 20))
    process = subprocess.Popen(
        house.command("create", "data", "--exec", "sleep 2"), env=house.environment, stderr=subprocess.PIPE
    )
    house.wait(lambda: len(house.ask("list")) == 1)
    house.children[0].kill()
    house.children[0].wait(10)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1 and err.count(b"\n") == 1 and b"closed the connection" in err
    house.execute("insert into t values (1)")
    assert "no coordinator runs" in house.run("list", check=2)
    house.serve()
    house.wait(lambda: house.ask("list") == [])
