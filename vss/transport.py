"""A shadow copy as a file that another host can import: an uncompressed tar archive with these members, in order.

``copy.json`` is a ``Transport``; ``components.xml`` the backup components document, when there is one; ``data`` the
bytes of the copy that the file carries, one range after another; ``map.json`` a ``TransportMap`` that says which.
"""

from __future__ import annotations

import msgspec

from shadowset.vss.requester_protocol import SetRecord, SnapshotProperties

FORMAT = 1
COPY, DOCUMENT, DATA, MAP = "copy.json", "components.xml", "data", "map.json"


class Transport(msgspec.Struct):
    """What is carried. With ``since``, only what changed since that copy, which must have been imported before."""

    format: int
    copy: SnapshotProperties
    made: SetRecord
    since: str = ""


class TransportMap(msgspec.Struct):
    """``ranges`` are (offset, length) in bytes, ascending and apart; without ``since``, the rest of the copy is zeros.

    ``digest`` is the SHA-256 of ``data`` in hexadecimal.
    """

    ranges: list[tuple[int, int]]
    digest: str
