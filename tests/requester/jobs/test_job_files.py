"""Definitions, history, the pool of contents, the versions' directories and timers: without a coordinator."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup.copy import TargetError
from shadowset.requester.jobs import pool as pools
from shadowset.requester.jobs import timer
from shadowset.requester.jobs.definition import Job, job_names, load_job
from shadowset.requester.jobs.history import JobRun, remember, runs
from shadowset.requester.jobs.place import Place
from shadowset.requester.jobs.pool import Pool
from shadowset.requester.jobs.runner import locked
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path / "run"), str(tmp_path / "state"), str(tmp_path / "etc"))


def define(paths: Paths, text: str, name: str = "nightly") -> Job:
    os.makedirs(paths.jobs, exist_ok=True)
    Path(f"{paths.jobs}/{name}.toml").write_text(text)
    return load_job(paths, name)


def test_a_definition_is_read(paths: Paths) -> None:
    job = define(paths, 'target = "/backup"\nfull_every = 7\n[keep]\nlast = 3\n')
    assert (job.name, job.place, job.full_every, job.keep.last) == ("nightly", "/backup", 7, 3)
    restic = define(paths, 'target = "restic:s3:host/bucket"\nrestic.password_file = "/etc/key"\n', "far")
    assert restic.is_restic and restic.place == "s3:host/bucket"
    assert define(paths, 'target = "images:/images"\n', "whole").is_images
    Path(f"{paths.jobs}/nightly.toml~").touch()
    assert job_names(paths) == ["far", "nightly", "whole"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "missing required field `target`"),
        ('target = "backup"', "is no place"),
        ('target = "images:"', "is no place"),
        ('target = "/b"\ntarget = "/c"', "is not TOML"),
        ('target = "/b"\nfulls = 3', "unknown field `fulls`"),
        ('target = "/b"\nfull_every = 0', "count from 1"),
        ('target = "/b"\nwait = "soon"', "'soon' is no length of time"),
        ('target = "/b"\nbetween = "copy"', "Invalid enum value 'copy'"),
        ('target = "/b"\npaths = ["/srv"]', "paths is for restic"),
        ('target = "restic:/b"\nwriters = ["x"]', "writers is for targets that are directories"),
        ('target = "restic:/b"\nfull_every = 2', "full_every is not for restic"),
        ('target = "/b"\nrestic.password_file = "/k"', "settings for restic"),
        ('target = "/b"\n[keep]\nlast = -1', "cannot be less than 0"),
    ],
)
def test_a_wrong_definition_is_refused_by_name(paths: Paths, text: str, sentence: str) -> None:
    with pytest.raises(VssError, match=r"nightly\.toml") as caught:
        define(paths, text)
    assert caught.value.code == Code.E_INVALIDARG and sentence in caught.value.message
    with pytest.raises(VssError, match=r"there is no job weekly; write .*jobs that are there: nightly"):
        load_job(paths, "weekly")
    with pytest.raises(VssError, match="is no name of a job"):
        load_job(paths, "../nightly")


def test_history_survives_a_torn_line(paths: Paths) -> None:
    assert runs(paths, "a") == []
    remember(paths, JobRun(job="a", started="1"))
    with open(f"{paths.job_state}/a.jsonl", "ab") as file:
        file.write(b'{"job":"a","star')
    remember(paths, JobRun(job="a", started="2", status="succeeded"))
    assert [run.started for run in runs(paths, "a")] == ["1", "2"]


def test_one_run_at_a_time_by_target(paths: Paths) -> None:
    first, second, other = (Job(name=name, target=target) for name, target in (("a", "/b"), ("c", "/b"), ("d", "/e")))
    with locked(paths, first), locked(paths, other):
        with pytest.raises(VssError, match="job c is not run: another run") as caught, locked(paths, second):
            pass
        assert caught.value.code == Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS
    with locked(paths, second):
        pass


# ---- the pool ----


def store(place: Path, name: str, content: bytes, pool: Pool) -> Path:
    path = place / name
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    known = pool.settle(str(path), len(content), digest)
    assert path.read_bytes() == content
    assert known == (path.stat().st_nlink > 2) and pool.has(str(path), len(content), digest) == bool(content)
    return path


def test_equal_contents_are_stored_once_and_go_with_the_last(tmp_path: Path) -> None:
    pool = Pool(str(tmp_path))
    first, second = (store(tmp_path, name, b"equal", pool) for name in ("a", "b"))
    third = store(tmp_path, "c", b"other", pool)
    empty = store(tmp_path, "d", b"", pool)
    assert first.stat().st_ino == second.stat().st_ino != third.stat().st_ino
    assert empty.stat().st_nlink == 1
    again = Pool(str(tmp_path))
    assert again.sweep() == 0
    first.unlink()
    third.unlink()
    assert again.sweep() == 5 and second.read_bytes() == b"equal"
    assert store(tmp_path, "e", b"equal", again).stat().st_ino == second.stat().st_ino


def test_a_damaged_content_is_not_linked_to(tmp_path: Path) -> None:
    old = store(tmp_path, "a", b"equal", Pool(str(tmp_path)))
    old.write_bytes(b"spoil")
    pool = Pool(str(tmp_path))
    fresh = store(tmp_path, "b", b"equal", pool)
    assert fresh.read_bytes() == b"equal" and old.read_bytes() == b"spoil"
    assert store(tmp_path, "c", b"equal", pool).stat().st_ino == fresh.stat().st_ino


def test_a_content_that_takes_no_more_links_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(str(tmp_path))
    first = store(tmp_path, "a", b"equal", pool)
    link, full = os.link, True

    def no_more(source: str, target: str) -> None:
        nonlocal full
        if full:
            full = False
            raise OSError(31, "Too many links")
        link(source, target)

    monkeypatch.setattr(pools.os, "link", no_more)
    second = store(tmp_path, "b", b"equal", pool)
    third = store(tmp_path, "c", b"equal", pool)
    assert first.stat().st_ino != second.stat().st_ino == third.stat().st_ino
    monkeypatch.setattr(pools.os, "link", lambda source, target: link("/none", target))
    with pytest.raises(TargetError):
        store(tmp_path, "d", b"new", pool)


# ---- the directories of the versions ----


def test_a_version_that_turns_out_to_be_full_right_after_a_full_one(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "nightly", "manifest.json")
    first, second = place.make("full"), place.make("incremental")
    renamed = place.rename(second, "full")
    assert place.names() == [first, renamed] and first < renamed


def test_unfinished_versions_are_removed_and_nothing_else(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "nightly", "manifest.json")
    done, half = place.make("full"), place.make("full")
    assert done != half
    (tmp_path / done / "manifest.json").touch()
    (tmp_path / half / "files").mkdir()
    (tmp_path / "mine").mkdir()
    (sentence,) = place.clean()
    assert half in sentence and sorted(os.listdir(tmp_path)) == sorted([done, "mine"])
    place.drop(done)
    assert place.names() == []
    with pytest.raises(VssError, match=r"target .* of job nightly is no directory; mount"):
        Place(str(tmp_path / "none"), "nightly", "x").names()


# ---- timers ----


@pytest.mark.vss(131)
def test_a_timer_is_made_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "RUNNING", str(tmp_path / "no-systemd"))
    monkeypatch.setattr(timer, "PACKAGED", ())
    job = Job(name="nightly", target="/b", schedule="Mon..Fri 03:30")
    with pytest.raises(VssError, match=r"there is no unit shadowset-job@\.service .*'shadowset setup'"):
        timer.schedule(job, str(tmp_path))
    service = tmp_path / timer.SERVICE
    service.write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    path = timer.schedule(job, str(tmp_path))
    assert timer.is_scheduled("nightly", str(tmp_path))
    unit: Any = Path(path)
    assert "OnCalendar=Mon..Fri 03:30\nPersistent=yes" in unit.read_text() and unit.stat().st_mode & 0o777 == 0o644
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert "nightly.timer" not in done.stderr, done.stderr
    assert timer.unschedule("nightly", str(tmp_path)) == path and not unit.exists()
    with pytest.raises(VssError, match="job nightly is not scheduled"):
        timer.unschedule("nightly", str(tmp_path))
    for schedule, sentence in (
        ("", "has no schedule"),
        ("whenever", "no calendar expression"),
        ("a\nb", "no calendar"),
    ):
        with pytest.raises(VssError, match=sentence):
            timer.schedule(Job(name="nightly", target="/b", schedule=schedule), str(tmp_path))
