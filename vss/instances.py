"""Which running instance of a writer takes what was backed up of one: a process has a new instance id at each start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shadowset.vss.components import WriterComponents
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.selection import guid_key


def taker_of(
    entry: WriterComponents, entries: Iterable[WriterComponents], running: Sequence[WriterMetadata]
) -> WriterMetadata | None:
    """The running instance for ``entry``, one of the ``entries`` of a backup components document, or None.

    It is the same instance; or the one of its class with its instance name; or, since the components of a class are
    unique over all its instances, the only one that has its components; or the only one of its class. Neither of the
    last two may have another instance name, or be what another entry was backed up from.
    """
    same_class = [each for each in running if guid_key(each.writer_id) == guid_key(entry.writer_id)]
    for each in same_class:
        if guid_key(each.instance_id) == guid_key(entry.instance_id):
            return each
    for each in same_class:
        if entry.instance_name and each.instance_name == entry.instance_name:
            return each
    others = {guid_key(each.instance_id) for each in entries if each is not entry}
    free = [each for each in same_class if guid_key(each.instance_id) not in others and _may_be(entry, each)]
    able = [each for each in free if _has_all(each, entry)]
    for candidates in (able, free):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _may_be(entry: WriterComponents, metadata: WriterMetadata) -> bool:
    return not entry.instance_name or not metadata.instance_name


def _has_all(metadata: WriterMetadata, entry: WriterComponents) -> bool:
    return all(metadata.component(each.logical_path, each.name) is not None for each in entry.components)
