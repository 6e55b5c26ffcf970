"""The writer's configuration file: which clusters, and how their servers are stopped and started for a restore."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from shadowset.vss.codes import Code, VssError

SOCKET_DIRECTORY = "/run/postgresql"


class ClusterSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One cluster. ``data_directory`` is needed when it shall be known while its server is down."""

    connection: str = ""
    data_directory: str = ""
    stop_command: list[str] = []
    start_command: list[str] = []
    restore_command: str = ""


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    name: str = ""
    cluster: list[ClusterSettings] = []
    freeze_timeout_ms: int = 60_000
    command_seconds: int = 120
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def read_settings(path: str) -> Settings:
    """Reads a file. Errors: E_INVALIDARG naming the file and the setting."""
    try:
        settings = msgspec.convert(tomllib.loads(Path(path).read_text(encoding="utf-8")), Settings)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise VssError(Code.E_INVALIDARG, f"the configuration {path} cannot be used: {error}") from error
    for number, cluster in enumerate(settings.cluster, 1):
        problem = problem_of(cluster)
        if problem:
            raise VssError(Code.E_INVALIDARG, f"{path}: cluster {number} {problem}")
    return settings


def problem_of(cluster: ClusterSettings) -> str:
    """What is wrong with the settings of a cluster; empty when nothing is."""
    if not cluster.connection and not cluster.data_directory:
        return "has neither connection nor data_directory; give one at least"
    if cluster.data_directory and not os.path.isabs(cluster.data_directory):
        return f"has the data_directory {cluster.data_directory}; give an absolute path"
    needs_place = cluster.stop_command or cluster.start_command or cluster.restore_command
    if needs_place and not cluster.data_directory:
        return "has commands, but no data_directory by which a restore would know it; add data_directory"
    if cluster.start_command and not cluster.connection:
        return "has a start_command, but no connection by which the started server is checked; add connection"
    return ""


def discover(directory: str = SOCKET_DIRECTORY) -> list[ClusterSettings]:
    """The clusters whose servers listen in the usual place."""
    prefix = ".s.PGSQL."
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    ports = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [
        ClusterSettings(connection=f"host={directory} port={port} dbname=postgres")
        for port in ports
        if port.isdecimal()
    ]
