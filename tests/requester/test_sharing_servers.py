"""What is understood of the servers' own words, without servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowset.requester.sharing.servers import NFS, Nfs, Share
from shadowset.requester.sharing.work import directory_in
from shadowset.vss.codes import VssError


def test_paths_with_blanks_are_found_among_the_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exportfs 2.6.2 prints them."""
    program = tmp_path / "exportfs"
    program.write_text("#!/bin/sh\nprintf '%s\\n' '/a\\040b  192.0.2.0/24(sync,wdelay,ro)' '' '/c  *(ro)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = {path: Nfs().has(Share(kind=NFS, snapshot_id="x", path=path)) for path in ("/a b", "/a", "/c", "/c/d")}
    assert found == {"/a b": True, "/a": False, "/c": True, "/c/d": False}


def test_a_directory_does_not_lead_out_of_the_copy(tmp_path: Path) -> None:
    (tmp_path / "copy" / "in").mkdir(parents=True)
    (tmp_path / "copy" / "out").symlink_to("/etc")
    (tmp_path / "copy" / "round").symlink_to("in")
    mount = str(tmp_path / "copy")
    assert directory_in(mount, "") == mount and directory_in(mount, "/round") == f"{mount}/in"
    for inside in ("out", "..", "none", "in/../.."):
        with pytest.raises(VssError, match="there is no directory"):
            directory_in(mount, inside)
