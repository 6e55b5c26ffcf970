"""Whether the volumes that files are restored to are mounted: beneath a mount point nobody would find them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

from shadowset.requester.backup.manifest import DIRECTORY, PARENT, RANGES_FILE
from shadowset.requester.backup.mounts import is_below
from shadowset.requester.restore.choose import RestoreItem
from shadowset.requester.restore.wishes import Wishes, new_targets
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import RestoreMethodType
from shadowset.vss.filespec import PathIndex, mapped_path


def refuse_unmounted(
    items: list[RestoreItem], wishes: Wishes, mounted: Collection[str], variables: Mapping[str, str]
) -> None:
    """Refuse when files would go to a mount point of the backup's time that is none now (``mounted``).

    Another file system than then may be mounted there: a disk that was replaced is restored to this way.
    Errors: VSS_E_BAD_STATE, naming the first such mount point and its volume.
    """
    volumes = [volume for item in items for volume in item.link.manifest.volumes]
    volume_of = {point: volume.name for volume in volumes for point in volume.mount_points}
    directories = {os.path.dirname(path) for item in items for path in _destinations(item, wishes, variables)}
    for directory in sorted(directories):
        point = _mount_point_of(os.path.realpath(directory), volume_of)
        if point is not None and point not in mounted:
            raise VssError(
                Code.VSS_E_BAD_STATE,
                f"nothing is mounted at {point}; mount volume {volume_of[point]} there first, or restore with --to DIR",
            )


def _destinations(item: RestoreItem, wishes: Wishes, variables: Mapping[str, str]) -> Iterable[str]:
    """Where an item's files go, as far as that can be told before its writer was asked."""
    moved = PathIndex(new_targets(item, wishes, variables), variables)
    mapped = PathIndex(item.metadata.alternate_location_mappings, variables)
    always = item.metadata.restore_method.method == RestoreMethodType.RESTORE_TO_ALTERNATE_LOCATION
    # Directories are only made again where files lie in them.
    for path in (file.path for file in item.files if file.kind not in (DIRECTORY, PARENT, RANGES_FILE)):
        mapping = moved.find(path) or (mapped.find(path) if always else None)
        if mapping is not None:
            yield mapped_path(mapping, path, variables)
        elif not always:
            yield path


def _mount_point_of(directory: str, points: Collection[str]) -> str | None:
    return max((point for point in points if is_below(directory, point)), key=len, default=None)
