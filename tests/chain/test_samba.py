"""Previous versions through a real Samba server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samba_server import Samba, installed

VOLUMES = (("data", "ext4", 64 << 20), ("more", "xfs", 320 << 20))


@pytest.fixture
def samba(chain: Any) -> Iterator[Samba]:
    if not installed():
        pytest.skip("not installed: samba, smbclient, samba-vfs-modules")
    chain.add_volumes(VOLUMES)
    os.chmod(chain.directory, 0o755)
    os.makedirs(f"{chain.places['data']}/projects/deep")
    top = tempfile.mkdtemp(prefix="ss-smb-", dir="/var/tmp")
    os.chmod(top, 0o755)
    server = Samba(top, chain.environment)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(top, ignore_errors=True)


def versions(chain: Any) -> list[str]:
    directory = Path(chain.paths.previous) / "data"
    return sorted((path.name for path in directory.iterdir()), reverse=True) if directory.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.vss(110)
def test_clients_see_and_read_previous_versions(chain: Any, samba: Samba, wait_until: Any, tmp_path: Path) -> None:
    projects = f"{chain.places['data']}/projects"
    contents = []
    for number in range(3):  # within a second or two: names must not collide
        Path(f"{projects}/deep/file").write_text(f"version {number}")
        contents.append(f"version {number}")
        chain.cli("create", "data", "--context", "client-accessible")
    Path(f"{projects}/deep/file").write_text("now")
    chain.cli("create", "data")  # not for clients
    wait_until("three versions", lambda: len(versions(chain)) == 3)
    section = chain.raw("samba", "config", "projects", "--path", projects)
    assert section.returncode == 0, section.stderr
    samba.start(section.stdout)
    check = ["samba", "check", "projects", "--smb-conf", samba.conf, "--port", str(samba.port),
             "--authentication-file", samba.credentials]  # fmt: skip
    report = chain.cli(*check)
    assert report["seen"] == report["expected"] == versions(chain)
    for name, content in zip(reversed(versions(chain)), contents, strict=True):
        done = samba.client("projects", f"get {name}/deep/file {tmp_path}/{name}")
        assert (tmp_path / name).read_text() == content, done.stderr
        assert "NT_STATUS" in samba.client("projects", f"put {samba.conf} {name}/no").stdout

    oldest = min(chain.cli("list"), key=lambda copy: copy["created"])
    chain.cli("delete", oldest["snapshot_id"])
    wait_until("the oldest to go", lambda: len(versions(chain)) == 2)
    assert chain.cli(*check)["seen"] == versions(chain)

    chain.daemon.kill()
    chain.daemon.wait()
    left = versions(chain)[0]
    subprocess.run(["umount", "-l", f"{chain.paths.previous}/data/{left}"], check=True)
    chain.start_daemon()
    wait_until("what was unmounted to come back", lambda: os.path.ismount(f"{chain.paths.previous}/data/{left}"))


@pytest.mark.timeout(300)
def test_a_wrong_share_is_told(chain: Any, samba: Samba, wait_until: Any) -> None:
    projects = f"{chain.places['data']}/projects"
    chain.cli("create", "data", "--context", "client-accessible")
    wait_until("a version", lambda: versions(chain))
    samba.start(f"[wrong]\n    path = {projects}\n    vfs objects = shadow_copy2\n    shadow:snapdir = /tmp\n")
    check = ["--smb-conf", samba.conf, "--port", str(samba.port), "--authentication-file", samba.credentials]
    wrong = chain.raw("samba", "check", "wrong", *check)
    assert wrong.returncode == 1
    assert f"shadow:snapdir is /tmp; set it to {chain.paths.previous}/data" in wrong.stderr
    assert f"clients do not see {versions(chain)[0]}" in wrong.stderr
    for arguments, word in (
        (("check", "none", *check), "Samba has no share none"),
        (("config", "x", "--path", "/proc"), "lies on no protected volume"),
        (("config", "a/b", "--path", projects), "cannot be the name of a share"),
    ):
        done = chain.raw("samba", *arguments)
        assert done.returncode == 1
        assert word in done.stderr


def fsrvp_share(chain: Any, name: str, path: str) -> str:
    done = chain.raw("samba", "config", name, "--path", path, "--fsrvp")
    assert done.returncode == 0, done.stderr
    return str(done.stdout) + "    read only = no\n"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.vss(134)
def test_a_client_makes_shadow_copies_over_the_network(chain: Any, samba: Samba, tmp_path: Path) -> None:
    projects = f"{chain.places['data']}/projects"
    samba.start(fsrvp_share(chain, "projects", projects) + f"[plain]\n    path = {projects}\n")
    assert "supports" in samba.rpc("fss_is_path_sup projects").stdout
    assert "supports" not in samba.rpc("fss_is_path_sup plain").stdout
    Path(f"{projects}/file").write_text("as it was")
    made = samba.rpc("fss_create_expose backup ro projects")
    assert made.returncode == 0, made.stdout + made.stderr
    Path(f"{projects}/file").write_text("changed")
    (copy,) = chain.cli("list")
    exposed = re.search(r"projects@\{[0-9A-Fa-f-]+\}", made.stdout)
    assert exposed, made.stdout
    samba.client(exposed[0], f"get file {tmp_path}/got")
    assert (tmp_path / "got").read_text() == "as it was"
    assert "NT_STATUS" in samba.client(exposed[0], f"put {samba.conf} no").stdout  # Samba would let it through
    assert versions(chain)
    numbers = re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", made.stdout)
    set_id, copy_id = list(dict.fromkeys(numbers))[:2]
    assert samba.rpc(f"fss_recovery_complete {set_id}").returncode == 0
    deleted = samba.rpc(f"fss_delete projects {set_id} {copy_id}")
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    assert chain.cli("list") == []
    assert copy["snapshot_id"] not in str(versions(chain))


@pytest.mark.timeout(300)
def test_shares_on_two_volumes_are_cut_at_one_instant(chain: Any, samba: Samba) -> None:
    samba.start(fsrvp_share(chain, "projects", f"{chain.places['data']}/projects")
                + fsrvp_share(chain, "more", chain.places["more"]))  # fmt: skip
    made = samba.rpc("fss_create_expose backup ro projects more")
    assert made.returncode == 0, made.stdout + made.stderr
    first, second = chain.cli("list")
    assert first["snapshot_set_id"] == second["snapshot_set_id"]
    assert {first["original_volume"], second["original_volume"]} == {"data", "more"}
    assert samba.rpc("fss_create_expose backup ro more").returncode == 0
    assert len({copy["snapshot_set_id"] for copy in chain.cli("list")}) == 2  # asked for later: a cut of its own


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sambas_own_suite_for_shadow_copies_passes(chain: Any, samba: Samba) -> None:
    if shutil.which("smbtorture") is None:
        pytest.skip("not installed: samba-testsuite")
    samba.start(fsrvp_share(chain, "fsrvp_share", f"{chain.places['data']}/projects"))
    done = subprocess.run(
        ["smbtorture", "-p", str(samba.port), "-U", "root%pw", "--option=fss:sequence timeout=5",
         "ncacn_np:127.0.0.1[sign]", "rpc.fsrvp"],
        capture_output=True, text=True, timeout=500, check=False, cwd=samba.top,
    )  # fmt: skip
    results = re.findall(r"^(success|failure|error|skip): (\S+)", done.stdout, re.MULTILINE)
    assert len(results) >= 10, done.stdout + done.stderr
    assert [name for word, name in results if word != "success"] == [], done.stdout
