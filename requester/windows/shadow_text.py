"""A shadow copy in the many lines in which diskshadow and vshadow show one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shadowset.requester.sentences import printable
from shadowset.requester.windows.words import braced, time_text
from shadowset.vss.enums import Attribute
from shadowset.vss.requester_protocol import SnapshotProperties

_WORDS = (
    (Attribute.TRANSPORTABLE, "Transportable"),
    (Attribute.NO_AUTO_RELEASE, "No_Auto_Release"),
    (Attribute.PERSISTENT, "Persistent"),
    (Attribute.CLIENT_ACCESSIBLE, "Client_accessible"),
    (Attribute.NO_WRITERS, "No_Writers"),
    (Attribute.IMPORTED, "Imported"),
    (Attribute.HARDWARE_ASSISTED, "Hardware_assisted"),
    (Attribute.PLEX, "Plex"),
    (Attribute.DIFFERENTIAL, "Differential"),
    (Attribute.AUTORECOVER, "Auto_Recover"),
    (Attribute.NO_AUTORECOVERY, "No_Auto_Recovery"),
)


@dataclass(frozen=True)
class Style:
    """What differs between the two tools: indents and some words."""

    indent: str
    inner: str
    heading: str
    set_label: str
    name_label: str
    time_label: str
    not_exposed: str
    provider_label: str


DISKSHADOW = Style(
    "\t",
    "\t\t",
    "* Shadow copy ID = {id}",
    "Shadow copy set",
    "Original volume name",
    "Creation time",
    "Not exposed",
    "Provider ID",
)
VSHADOW = Style(
    "",
    "   ",
    "* SNAPSHOT ID = {id} ...",
    "Shadow copy Set",
    "Original Volume name",
    "Creation Time",
    "Not Exposed",
    "Provider id",
)


def attributes_line(attributes: int) -> str:
    """The attributes in the words and the order of the tools; a copy that goes with its maker is Auto_Release."""
    words = [word for flag, word in _WORDS if attributes & flag]
    if not attributes & Attribute.NO_AUTO_RELEASE:
        words.insert(1 if attributes & Attribute.TRANSPORTABLE else 0, "Auto_Release")
    return " ".join(words)


def copy_text(copy: SnapshotProperties, style: Style, aliases: Mapping[str, str] | None = None) -> str:
    """One copy; ``aliases`` are names by id, shown as ``%NAME%`` beside the ids that they stand for."""
    names = aliases or {}
    mark = {one: f"\t%{names[one]}%" if one in names else "" for one in (copy.snapshot_id, copy.snapshot_set_id)}
    mounts = f" [{copy.mount_points[0]}]" if copy.mount_points else ""
    lines = [
        f"{style.set_label}: {braced(copy.snapshot_set_id)}{mark[copy.snapshot_set_id]}",
        f"Original count of shadow copies = {copy.snapshots_count}",
        f"{style.name_label}: {printable(copy.original_volume + mounts)}",
        f"{style.time_label}: {time_text(copy.created_ns)}",
        f"Shadow copy device name: {printable(copy.device_object)}",
        f"Originating machine: {printable(copy.originating_machine)}",
        f"Service machine: {printable(copy.service_machine)}",
        f"Exposed locally as: {printable(copy.exposed_name)}" if copy.exposed_name else style.not_exposed,
        f"{style.provider_label}: {braced(copy.provider_id)}",
        f"Attributes:  {attributes_line(copy.attributes)}",
    ]
    heading = style.heading.replace("{id}", braced(copy.snapshot_id)) + mark[copy.snapshot_id]
    return "\n".join([style.indent + heading, *(f"{style.inner}- {line}" for line in lines)]) + "\n"
