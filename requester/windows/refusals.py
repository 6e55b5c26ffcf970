"""What the Windows tools can do and Shadowset's providers cannot, each refused in one sentence with VSS's code."""

from __future__ import annotations

from typing import NoReturn

from shadowset.vss.codes import Code, VssError


def refuse_letters_and_shares(place: str) -> None:
    """Errors: E_INVALIDARG for a drive letter, VSS_E_NOT_SUPPORTED for a share."""
    if len(place.rstrip("\\")) == 2 and place[1] == ":":
        raise VssError(
            Code.E_INVALIDARG, f"{place} is a drive letter, which there are none of here; give an empty directory"
        )
    if place.startswith("\\\\"):
        refuse_share(place)


def refuse_share(place: str) -> NoReturn:
    """Errors: VSS_E_NOT_SUPPORTED."""
    raise VssError(
        Code.VSS_E_NOT_SUPPORTED, f"{place} is a share; expose the copy on an empty directory and share that"
    )


def refuse_break(command: str) -> NoReturn:
    """Errors: E_INVALIDARG: without a directory there is no place for the volumes."""
    raise VssError(
        Code.E_INVALIDARG,
        f"{command} writes the shadow copies out as volumes of their own, since here they are differences to the live "
        "volume; give a directory for them too",
    )


def refuse_import(command: str) -> NoReturn:
    """Errors: VSS_E_NOT_SUPPORTED: a document alone leads to no disk here."""
    raise VssError(
        Code.VSS_E_NOT_SUPPORTED,
        f"{command} by a document finds no disks here, where shadow copies travel as files; give each file of "
        "'shadowset export' to IMPORT of diskshadow or to 'shadowset import'",
    )


def refuse_disks(command: str) -> NoReturn:
    """Errors: VSS_E_NOT_SUPPORTED."""
    raise VssError(
        Code.VSS_E_NOT_SUPPORTED,
        f"{command} is for the disks of hardware shadow copies, which no provider here has; use revert or a restore",
    )
