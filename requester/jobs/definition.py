"""What a job is: one TOML file ``jobs.d/NAME.toml`` in the configuration directory."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Literal

import msgspec

from shadowset.requester.durations import seconds_in
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
RESTIC, IMAGES = "restic:", "images:"
RESUME_WITHIN = "12h"


class Keep(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How many backups stay: the newest ones, and the newest of each of so many days, weeks, months and years."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __post_init__(self) -> None:
        if min(self.counts()) < 0:
            raise ValueError("what to keep is counted, and cannot be less than 0")

    def counts(self) -> tuple[int, ...]:
        """All numbers; without any above 0 everything is kept."""
        return (self.last, self.daily, self.weekly, self.monthly, self.yearly)


class Restic(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What restic needs: where its password is, a file of ``NAME=VALUE`` lines for its environment, options."""

    password_file: str = ""
    environment_file: str = ""
    options: tuple[str, ...] = ()


class Job(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One job. ``schedule`` is a calendar expression of systemd; empty: only by hand.

    Every ``full_every``-th backup is a full one, the others are of the type ``between``. ``paths`` are what restic
    takes; when empty, where the volumes are mounted. An image that was interrupted is gone on with when its copy is not
    older than ``resume_within``.
    """

    name: str = ""
    target: str
    schedule: str = ""
    writers: list[str] = []
    exclude_writers: list[str] = []
    components: list[str] = []
    volumes: list[str] = []
    paths: list[str] = []
    full_every: int = 1
    between: Literal["incremental", "differential", "log"] = "incremental"
    verify: bool = True
    wait: str = "10m"
    tries: int = 3
    retry_wait: str = "10m"
    resume_within: str = RESUME_WITHIN
    keep: Keep = Keep()
    restic: Restic = Restic()

    def __post_init__(self) -> None:
        for text in (self.wait, self.retry_wait, self.resume_within):
            seconds_in(text)
        if self.full_every < 1 or self.tries < 1:
            raise ValueError("full_every and tries count from 1")
        place = self.target.removeprefix(RESTIC).removeprefix(IMAGES)
        if not place or (not self.is_restic and not place.startswith("/")):
            raise ValueError(f"target {self.target!r} is no place; give an absolute path, images:/… or restic:…")
        _refuse_strangers(self)

    @property
    def is_restic(self) -> bool:
        """Whether restic stores it."""
        return self.target.startswith(RESTIC)

    @property
    def is_images(self) -> bool:
        """Whether volumes are stored whole, as images."""
        return self.target.startswith(IMAGES)

    @property
    def place(self) -> str:
        """The target without its kind: a directory, or what restic calls a repository."""
        return self.target.removeprefix(RESTIC).removeprefix(IMAGES)


def _refuse_strangers(job: Job) -> None:
    """Errors: ValueError for keys that this kind of target does not look at, and would silently ignore."""
    chosen = {
        "writers": job.writers,
        "exclude_writers": job.exclude_writers,
        "components": job.components,
    }
    if job.is_restic or job.is_images:
        for key in (key for key, value in chosen.items() if value):
            raise ValueError(f"{key} is for targets that are directories; choose by volumes here")
    if job.paths and not job.is_restic:
        raise ValueError("paths is for restic; choose by writers, components or volumes here")
    if job.restic != Restic() and not job.is_restic:
        raise ValueError(f"there are settings for restic, but the target {job.target!r} is none")
    if job.resume_within != RESUME_WITHIN and not job.is_images:
        raise ValueError("resume_within is for images; other targets are gone on with from a new shadow copy")
    if job.is_restic and job.full_every != 1:
        raise ValueError("full_every is not for restic, which stores every version once and whole")


def load_job(paths: Paths, name: str) -> Job:
    """One job by its name. Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG with a sentence that names the file."""
    if not NAME.fullmatch(name):
        sentence = f"{name!r} is no name of a job: letters, digits, dot, dash and underscore, at most 63"
        raise VssError(Code.E_INVALIDARG, sentence)
    path = f"{paths.jobs}/{name}.toml"
    try:
        with open(path, "rb") as file:
            job = msgspec.convert(tomllib.load(file), Job)
    except FileNotFoundError:
        known = ", ".join(job_names(paths)) or "none"
        sentence = f"there is no job {name}; write {path} (jobs that are there: {known})"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence) from None
    except OSError as error:
        raise VssError(Code.E_INVALIDARG, f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VssError(Code.E_INVALIDARG, f"{path} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise VssError(Code.E_INVALIDARG, f"{path}: {error}") from None
    job.name = name
    return job


def job_names(paths: Paths) -> list[str]:
    """The jobs that are defined, by name."""
    try:
        files = os.listdir(paths.jobs)
    except FileNotFoundError:
        return []
    return sorted(name for file in files if NAME.fullmatch(name := file.removesuffix(".toml")) and name != file)
