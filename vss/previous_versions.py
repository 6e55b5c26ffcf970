"""The names of previous versions, as SMB clients and servers know them: ``@GMT-YYYY.MM.DD-HH.MM.SS``, in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from shadowset.vss.enums import Attribute
from shadowset.vss.requester_protocol import SnapshotProperties

NAME_FORMAT = "@GMT-%Y.%m.%d-%H.%M.%S"
SECOND = 10**9


def version_names(copies: Iterable[SnapshotProperties]) -> dict[str, str]:
    """The name of each client-accessible copy of one volume, by snapshot id.

    Names have whole seconds. Of copies that were cut within the same second, the later ones take the next free one, so
    that each can be reached.
    """
    names: dict[str, str] = {}
    last = 0
    chosen = [copy for copy in copies if copy.attributes & Attribute.CLIENT_ACCESSIBLE]
    for copy in sorted(chosen, key=lambda copy: (copy.created_ns, copy.snapshot_id)):
        last = max(copy.created_ns // SECOND, last + 1)
        names[copy.snapshot_id] = datetime.fromtimestamp(last, UTC).strftime(NAME_FORMAT)
    return names
