"""Which volume of a set a path lies on, and which writers have files on a volume."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from shadowset.daemon.cast import Participant
from shadowset.daemon.cut import PlannedSnapshot
from shadowset.vss.codes import VssError
from shadowset.vss.filespec import contains, expand, normalise
from shadowset.vss.metadata import WriterMetadata


def volume_of(path: str, snapshots: Iterable[PlannedSnapshot]) -> PlannedSnapshot | None:
    """The volume of the set with the innermost mount point above a path."""
    points = [(point, each) for each in snapshots for point in _points(path, each)]
    return max(points, key=lambda pair: len(pair[0]))[1] if points else None


def _points(path: str, each: PlannedSnapshot) -> list[str]:
    real = os.path.realpath(path)
    return [point for point in each.facts.mount_points if contains(point, real)]


def inside(path: str, each: PlannedSnapshot) -> str:
    """A path below the volume's root."""
    return os.path.relpath(os.path.realpath(path), max(_points(path, each), key=len))


def writers_on(
    each: PlannedSnapshot,
    snapshots: list[PlannedSnapshot],
    participants: Iterable[Participant],
    variables: Mapping[str, str],
) -> list[str]:
    """Classes of the writers with a component that has files on this volume of the set."""
    found = {
        participant.metadata.writer_id
        for participant in participants
        if any(volume_of(path, snapshots) is each for path in _paths(participant.metadata, variables))
    }
    return sorted(found)


def _paths(metadata: WriterMetadata, variables: Mapping[str, str]) -> list[str]:
    found = []
    for component in metadata.components:
        for files in component.file_sets:
            try:
                found.append(normalise(expand(files.path, variables)))
            except VssError:
                continue  # nobody can tell where that is
    return found
