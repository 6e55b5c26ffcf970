"""Finding what a person means: ids may be shortened, and copies have a device name and number as well."""

from __future__ import annotations

from collections.abc import Iterable

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ObjectType
from shadowset.vss.paths import DEVICE_PREFIX
from shadowset.vss.requester_protocol import SnapshotProperties

SHORT = 8


def normal_id(text: str) -> str:
    """An id as it is compared: lower case, no braces."""
    return text.strip().strip("{}").lower()


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """The shortest forms, eight characters at least, that tell these ids apart."""
    known = list(dict.fromkeys(ids))
    length = SHORT
    while len({text[:length] for text in known}) < len(known):
        length += 1
    return {text: text[:length] for text in known}


def find_copy(text: str, copies: list[SnapshotProperties]) -> SnapshotProperties:
    """The one copy meant by an id, an id's beginning, a device name, a device number or a device path.

    Errors: VSS_E_OBJECT_NOT_FOUND, also for a set; E_INVALIDARG where several match.
    """
    by_device = [copy for copy in copies if _names_device(text, copy)]
    if by_device:
        return by_device[0]
    matches = {copy.snapshot_id: copy for copy in copies if normal_id(copy.snapshot_id).startswith(normal_id(text))}
    if not matches:
        _refuse_set(text, copies)
        _refuse_volume(text, copies)
    return matches[_only(text, list(matches), "shadow copy")]


def _refuse_set(text: str, copies: list[SnapshotProperties]) -> None:
    """Errors: VSS_E_OBJECT_NOT_FOUND that names the copies, when a set is meant."""
    wanted = normal_id(text)
    inside = [copy for copy in copies if wanted and normal_id(copy.snapshot_set_id).startswith(wanted)]
    if len({copy.snapshot_set_id for copy in inside}) == 1:
        short = short_ids(copy.snapshot_id for copy in copies)
        names = ", ".join(f"{short[copy.snapshot_id]} ({copy.original_volume})" for copy in inside)
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{text!r} is a shadow copy set; name one of its copies: {names}")


def _refuse_volume(text: str, copies: list[SnapshotProperties]) -> None:
    """Errors: VSS_E_OBJECT_NOT_FOUND that says how to find the copies, when a volume is meant."""
    if any(text == copy.original_volume or text in copy.mount_points for copy in copies):
        message = f"{text!r} is a volume, not a shadow copy; 'shadowset list --volume {text}' shows its copies"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)


def find_set(text: str, copies: list[SnapshotProperties]) -> str:
    """The id of the one set meant by an id or its beginning. Errors: as find_copy."""
    ids = {copy.snapshot_set_id for copy in copies}
    return _only(text, [known for known in ids if normal_id(known).startswith(normal_id(text))], "shadow copy set")


def find_object(
    text: str, copies: list[SnapshotProperties], what: str = "shadow copy or set", listing: str = "shadowset list"
) -> tuple[ObjectType, str]:
    """The copy or the set meant, whichever it is. Errors: as find_copy; they name ``what`` and the listing command."""
    if any(_names_device(text, copy) for copy in copies):
        return ObjectType.SNAPSHOT, find_copy(text, copies).snapshot_id
    wanted = normal_id(text)
    found = {(ObjectType.SNAPSHOT_SET, copy.snapshot_set_id) for copy in copies}
    found |= {(ObjectType.SNAPSHOT, copy.snapshot_id) for copy in copies}
    matches = {known: kind for kind, known in found if normal_id(known).startswith(wanted)}
    if not matches and listing == "shadowset list":
        _refuse_volume(text, copies)
    only = _only(text, list(matches), what, listing)
    return matches[only], only


def _names_device(text: str, copy: SnapshotProperties) -> bool:
    number = str(copy.device_number)
    return bool(text) and text in (number, f"{DEVICE_PREFIX}{number}", copy.device_object)


def _only(text: str, matches: list[str], what: str, listing: str = "shadowset list") -> str:
    if text and len(matches) == 1:
        return matches[0]
    if not matches or not text:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no {what} {text!r}; '{listing}' shows what there is")
    some = ", ".join(sorted(matches)[:4])
    raise VssError(Code.E_INVALIDARG, f"{text!r} is the beginning of {len(matches)} ids ({some}); give more of it")
