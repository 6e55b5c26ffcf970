"""Backup jobs over real volumes: directories, restic, and images that qemu's programs read."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def jobs(chain: Any) -> Any:
    """``define(name, text)`` writes a job's file."""
    chain.environment["SHADOWSET_CONFIG_DIR"] = f"{chain.directory}/etc"
    os.makedirs(f"{chain.directory}/etc/jobs.d")
    os.makedirs(f"{chain.directory}/target")

    def define(name: str, text: str) -> str:
        Path(f"{chain.directory}/etc/jobs.d/{name}.toml").write_text(text)
        return f"{chain.directory}/target"

    chain.define = define
    return chain


def insert(database: str, value: int) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("insert into t values(?)", (value,))
        connection.commit()


def rows(database: str) -> list[int]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("select x from t order by x")]


@pytest.mark.vss(131)
def test_a_job_keeps_what_it_should_and_restores_it(jobs: Any, database: str) -> None:
    target = jobs.define("nightly", f'target = "{jobs.directory}/target"\n[keep]\nlast = 2\n')
    made = [jobs.cli("job", "run", "nightly")]
    made.append(jobs.cli("job", "run", "nightly"))
    assert made[1]["status"] == "succeeded" and made[1]["stored_bytes"] < made[1]["bytes"], "it was there already"
    insert(database, 2)
    made.append(jobs.cli("job", "run", "nightly"))
    assert made[2]["removed"] == [made[0]["version"]]
    assert [one["version"]["id"] for one in jobs.cli("job", "versions", "nightly")] == [
        made[1]["version"],
        made[2]["version"],
    ]
    insert(database, 3)
    jobs.cli("restore", f"{target}/{made[2]['version']}")
    assert rows(database) == [1, 2]
    jobs.cli("restore", f"{target}/{made[1]['version']}")
    assert rows(database) == [1]
    (told,) = jobs.cli("job", "list")
    assert told["job"]["name"] == "nightly" and told["last"]["version"] == made[2]["version"] and not told["scheduled"]
    assert [run["status"] for run in jobs.cli("job", "status", "nightly")] == ["succeeded"] * 3
    assert jobs.cli("job", "clear", "nightly", "--dry-run") == {"removed": [], "freed": 0}


@pytest.mark.vss(131)
def test_a_failed_run_is_told_and_removes_nothing(jobs: Any, database: str) -> None:
    target = jobs.define("nightly", f'target = "{jobs.directory}/target"\ntries = 1\n[keep]\nlast = 1\n')
    first = jobs.cli("job", "run", "nightly")["version"]
    jobs.define("nightly", f'target = "{target}"\nwriters = ["Nobody"]\ntries = 1\n[keep]\nlast = 1\n')
    failed = jobs.raw("job", "run", "nightly")
    assert failed.returncode == 1 and "Nobody" in failed.stderr
    last = jobs.cli("job", "status", "nightly", status=1)[-1]
    assert last["status"] == "failed" and "Nobody" in last["sentences"][0]
    assert [name for name in os.listdir(target) if "Z-" in name] == [first]
    jobs.define("nightly", f'target = "{jobs.directory}/none"\n')
    assert "mount its file system" in jobs.raw("job", "run", "nightly").stderr
    jobs.define("broken", "target = 3")
    listed = jobs.raw("job", "list")
    assert listed.returncode == 1 and "broken.toml" in listed.stderr and "nightly" in listed.stdout


@pytest.mark.skipif(shutil.which("restic") is None, reason="not installed: restic")
def test_restic_stores_and_restores_by_itself(volumes: Any, jobs: Any, tmp_path: Path) -> None:
    repository = f"{jobs.directory}/restic"
    Path(f"{jobs.directory}/key").write_text("secret\n")
    alone = {"RESTIC_PASSWORD_FILE": f"{jobs.directory}/key", "RESTIC_CACHE_DIR": f"{jobs.directory}/cache"}
    restic = ["restic", "--repo", repository]
    missing = f'target = "restic:{repository}"\n[restic]\npassword_file = "{jobs.directory}/key"\n[keep]\nlast = 1\n'
    jobs.define("far", missing)
    assert "restic cat on" in jobs.raw("job", "run", "far").stderr
    subprocess.run([*restic, "init", "-q"], env={**jobs.environment, **alone}, check=True)
    made = []
    for text in ("first", "second"):
        for place in volumes.places.values():
            Path(f"{place}/file").write_text(text)
        made.append(jobs.cli("job", "run", "far"))
    assert [run["status"] for run in made] == ["succeeded"] * 2 and len(made[1]["removed"]) == 1
    versions = [one["version"]["id"] for one in jobs.cli("job", "versions", "far")]
    assert len(versions) == 1 and versions[0].startswith(made[1]["version"])
    subprocess.run([*restic, "check", "-q"], env={**jobs.environment, **alone}, check=True)
    command = [*restic, "restore", "-q", versions[0], "--target", str(tmp_path)]
    subprocess.run(command, env={**jobs.environment, **alone}, check=True)
    for place in volumes.places.values():
        assert Path(f"{tmp_path}{place}/file").read_text() == "second"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("restic") is None, reason="not installed: restic")
def test_restic_over_s3(volumes: Any, jobs: Any, tmp_path: Path, wait_until: Any) -> None:
    """With a server of S3's protocol, and credentials from a file that is not on the command line."""
    server = shutil.which("moto_server", path=f"{Path(__file__).parents[2] / '.venv-s3/bin'}:{os.environ['PATH']}")
    if server is None:
        pytest.skip("not installed: moto_server (make test-long installs it)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs.start(server, "-H", "127.0.0.1", "-p", str(port))
    wait_until("the server", lambda: answers_on(port), 120)
    credentials = "AWS_ACCESS_KEY_ID=who\nAWS_SECRET_ACCESS_KEY=what\nAWS_DEFAULT_REGION=us-east-1\n"
    Path(f"{jobs.directory}/s3.env").write_text(f"# for restic\n{credentials}RESTIC_PASSWORD=secret\n")
    repository = f"s3:http://127.0.0.1:{port}/backups"
    alone = {**jobs.environment, "RESTIC_PASSWORD": "secret", "RESTIC_CACHE_DIR": f"{jobs.directory}/cache"}
    alone |= dict(line.split("=") for line in credentials.splitlines())
    restic = ["restic", "--repo", repository]
    subprocess.run([*restic, "init", "-q"], env=alone, check=True)
    jobs.define("far", f'target = "restic:{repository}"\nrestic.environment_file = "{jobs.directory}/s3.env"\n')
    for place in volumes.places.values():
        Path(f"{place}/file").write_text("then")
    assert jobs.cli("job", "run", "far")["status"] == "succeeded"
    subprocess.run([*restic, "restore", "-q", "latest", "--target", str(tmp_path)], env=alone, check=True)
    assert all(Path(f"{tmp_path}{place}/file").read_text() == "then" for place in volumes.places.values())


def answers_on(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="not installed: qemu-utils")
def test_a_chain_of_ten_images_over_a_live_database(database: str, jobs: Any) -> None:
    """Each image is the copy, byte for byte, also for programs that we did not write; only changes are read."""
    target = jobs.define("whole", f'target = "images:{jobs.directory}/target"\nfull_every = 10\n')
    load = (
        "import sqlite3, sys, time\nc = sqlite3.connect(sys.argv[1])\nn = 100\n"
        "while True:\n    c.execute('insert into t values(?)', (n,)); c.commit(); n += 1; time.sleep(0.01)\n"
    )
    live = jobs.start(sys.executable, "-c", load, database)
    size, reads = 64 << 20, []
    for number in range(10):
        run = jobs.cli("job", "run", "whole")
        assert run["status"] == "succeeded", run
        assert run["kind"] == ("incremental" if number else "full")
        reads.append(run["bytes"])
        (copy,) = jobs.cli("list")  # those before are gone
        image = f"{target}/{run['version']}/one.qcow2"
        compared = subprocess.run(
            ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", copy["device_object"], image],
            capture_output=True,
            text=True,
            check=False,
        )
        assert compared.returncode == 0 and "identical" in compared.stdout, compared
    assert live.poll() is None
    live.kill()
    live.wait()
    assert reads[0] == size and max(reads[1:]) < size // 4, reads
    kept = jobs.cli("job", "versions", "whole")
    assert [one["version"]["needs"] for one in kept] == ["", *(one["version"]["id"] for one in kept[:-1])]
    raw, mount = f"{jobs.directory}/raw", f"{jobs.directory}/raw.mnt"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    os.mkdir(mount)
    subprocess.run(["mount", "-o", "loop", raw, mount], check=True)
    try:
        assert rows(f"{mount}/app.db")[0] == 1
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="not installed: qemu-utils")
def test_an_unknown_change_or_a_missing_base_makes_a_full_image(volumes: Any, jobs: Any) -> None:
    target = jobs.define("whole", f'target = "images:{jobs.directory}/target"\nfull_every = 9\nvolumes = ["one"]\n')
    first = jobs.cli("job", "run", "whole")
    (copy,) = jobs.cli("list")
    assert jobs.raw("delete", copy["snapshot_id"], "--yes").returncode == 0
    second = jobs.cli("job", "run", "whole")
    assert (first["kind"], second["kind"]) == ("full", "full")
    third = jobs.cli("job", "run", "whole")
    assert third["kind"] == "incremental" and third["bytes"] < second["bytes"]
    with open(f"{target}/{second['version']}/one.qcow2", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    time.sleep(1)
    spoilt = jobs.cli("job", "run", "whole", status=1)
    assert spoilt["status"] == "partial" and "was altered" in spoilt["sentences"][-1] and spoilt["removed"] == []
    shutil.rmtree(f"{target}/{second['version']}")
    assert "on which it builds" in jobs.raw("job", "versions", "whole").stdout
    assert jobs.cli("job", "run", "whole")["kind"] == "full"
    jobs.define("wrong", f'target = "images:{volumes.places["one"]}"\n')
    assert "lies on volume one" in jobs.raw("job", "run", "wrong").stderr
