"""Shadow copies shared over the network: read through a real Samba server; exports as exportfs is told of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samba_server import Samba, installed

EXPORTFS = """\
#!/bin/sh
# As exportfs(8), with a file in place of the kernel's table.
set -eu
table={table}
touch $table
case $1 in
-s) sed 's/^\\([^ ]*\\) \\(.*\\)$/\\1  \\2/' $table ;;
-o) echo "${{3#*:}} ${{3%%:*}}($2)" >>$table ;;
-u) path=${{2#*:}} client=${{2%%:*}}; grep -v "^$path $client(" $table >$table.new || true; mv $table.new $table ;;
-f) ;;
*) exit 1 ;;
esac
"""


@pytest.fixture
def chain_with_file(chain: Any) -> Any:
    chain.add_volumes((("data", "ext4", 64 << 20),))
    projects = f"{chain.places['data']}/projects"
    os.mkdir(projects)
    Path(f"{projects}/file").write_text("then")
    os.symlink("/etc", f"{projects}/out")
    chain.cli("create", "data")
    Path(f"{projects}/file").write_text("now")
    chain.copy = chain.cli("list")[0]["snapshot_id"]
    return chain


@pytest.fixture
def samba(chain_with_file: Any) -> Iterator[Samba]:
    if not installed() or shutil.which("net") is None:
        pytest.skip("not installed: samba, smbclient")
    top = tempfile.mkdtemp(prefix="ss-smb-", dir="/var/tmp")
    os.chmod(top, 0o755)
    server = Samba(top, chain_with_file.environment)
    os.mkdir(f"{top}/usershares")
    os.chmod(f"{top}/usershares", 0o1770)
    server.start(f"    usershare path = {top}/usershares\n    usershare max shares = 10\n[mine]\n    path = {top}\n")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(top, ignore_errors=True)


@pytest.mark.vss(114)
def test_a_copy_is_a_share_of_samba(chain_with_file: Any, samba: Samba, tmp_path: Path) -> None:
    chain, conf = chain_with_file, ("--smb-conf", samba.conf)
    told = chain.cli("expose", chain.copy, "--samba", "then", "--path", "projects", "--allow", "root", *conf)
    assert told["clients_use"].endswith("\\then")
    got = samba.client("then", f"get file {tmp_path}/got")
    assert (tmp_path / "got").read_text() == "then", got
    for words in (f"put {samba.conf} new", "rm file", "mkdir new"):
        assert "NT_STATUS" in samba.client("then", words).stdout, words
    (listed,) = chain.cli("expose")
    assert (listed["name"], listed["path"]) == ("then", f"{listed['mount']}/projects")
    for arguments, sentence in (
        ((chain.copy, "--samba", "THEN", *conf), "has a share THEN already"),
        ((chain.copy, "--samba", "mine", *conf), "has a share mine already"),
        ((chain.copy, "--samba", "other", "--path", "projects/out", *conf), "no directory projects/out in the shadow"),
        ((chain.copy, "--samba", "a/b", *conf), "cannot be the name of a share"),
        ((chain.copy,), "say how: --samba NAME or --nfs"),
    ):
        refused = chain.raw("expose", *arguments)
        assert refused.returncode in (1, 2) and sentence in refused.stderr, refused
    chain.cli("expose", chain.copy, "--samba", "whole", "--allow", "daemon", *conf)
    assert "NT_STATUS_ACCESS_DENIED" in samba.client("whole", "ls").stdout
    assert "is mounted" in chain.raw("delete", chain.copy, "--yes").stderr
    chain.cli("unexpose", "whole")
    assert os.path.ismount(listed["mount"]), "another share needs it"
    chain.cli("unexpose", "then")
    assert not os.path.ismount(listed["mount"]) and chain.cli("expose") == []
    assert "NT_STATUS_BAD_NETWORK_NAME" in samba.client("then", "ls").stdout
    assert "is not shared (shares that are there: none)" in chain.raw("unexpose", "then").stderr


@pytest.mark.long
@pytest.mark.vss(114)
def test_what_a_crash_left_is_taken_away(chain_with_file: Any, samba: Samba) -> None:
    """A mount that a reboot or somebody took, and a copy that was deleted by force; what is well stays."""
    chain, conf = chain_with_file, ("--smb-conf", samba.conf)
    chain.cli("create", "data")
    second = next(copy["snapshot_id"] for copy in chain.cli("list") if copy["snapshot_id"] != chain.copy)
    for copy, name in ((chain.copy, "one"), (second, "two")):
        chain.cli("expose", copy, "--samba", name, *conf)
    assert chain.cli("unexpose", "--stale") == []
    subprocess.run(["umount", "-l", chain.cli("expose")[0]["mount"]], check=True)
    assert [share["name"] for share in chain.cli("unexpose", "--stale")] == ["one"]
    assert [share["name"] for share in chain.cli("expose")] == ["two"]
    assert chain.raw("delete", second, "--yes", "--force").returncode == 0
    assert [share["name"] for share in chain.cli("unexpose", "--stale")] == ["two"]
    assert os.listdir(f"{samba.top}/usershares") == []


@pytest.mark.vss(114)
def test_a_copy_is_an_export_of_nfs(chain_with_file: Any, tmp_path: Path) -> None:
    """As exportfs is told of it, since a kernel with an NFS server is not everywhere."""
    chain, table = chain_with_file, tmp_path / "table"
    (tmp_path / "exportfs").write_text(EXPORTFS.format(table=table))
    os.chmod(tmp_path / "exportfs", 0o755)
    chain.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    assert "say which hosts" in chain.raw("expose", chain.copy, "--nfs").stderr
    assert "no host or network" in chain.raw("expose", chain.copy, "--nfs", "--allow", "a b(rw)").stderr
    allow = ("--allow", "192.0.2.0/24", "--allow", "backup.example")
    told = chain.cli("expose", chain.copy, "--nfs", *allow, "--path", "/projects")
    place = told["share"]["path"]
    assert told["clients_use"] == f"{os.uname().nodename}:{place}" and Path(f"{place}/file").read_text() == "then"
    options = f"(ro,sync,root_squash,subtree_check,fsid={chain.copy})"
    assert table.read_text().splitlines() == [f"{place} 192.0.2.0/24{options}", f"{place} backup.example{options}"]
    assert "exported already" in chain.raw("expose", chain.copy, "--nfs", *allow, "--path", "projects").stderr
    assert len(table.read_text().splitlines()) == 2
    table.write_text("")  # what a reboot makes of it
    assert [share["path"] for share in chain.cli("unexpose", "--stale")] == [place]
    assert not os.path.ismount(os.path.dirname(place)) and chain.cli("expose") == []
    chain.cli("expose", chain.copy, "--nfs", *allow)
    assert "no_subtree_check" in table.read_text()
    chain.cli("unexpose", chain.copy)
    assert table.read_text() == "" and chain.cli("expose") == []
