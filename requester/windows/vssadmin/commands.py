"""vssadmin's commands: each makes its calls and prints their result; returns the exit status."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shadowset.requester.administration import Administration
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli import EXIT_FAILURE, EXIT_OK, UsageError
from shadowset.requester.cli.output import note, say
from shadowset.requester.cli.watch import show_notice
from shadowset.requester.create import create_set
from shadowset.requester.windows.confirm import confirmed
from shadowset.requester.windows.listing import oldest_first
from shadowset.requester.windows.vssadmin import layout
from shadowset.requester.windows.vssadmin.arguments import Switches
from shadowset.requester.windows.words import volume_of
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute, Context, ObjectType
from shadowset.vss.requester_protocol import SnapshotProperties

CLIENT = "vssadmin"
T = TypeVar("T")


def list_shadows(switches: Switches) -> int:
    """``[/for=VOLUME] [/shadow=ID] [/set=ID]``."""
    with Administration(client=CLIENT) as administration:
        copies = administration.query(switches.guid("shadow"), switches.guid("set"), switches.value("for"))
        providers = {info.provider_id: info.name for info in administration.list_providers()}
    say(layout.shadows(copies, providers) if copies else layout.NOTHING)
    return EXIT_OK


def list_writers(switches: Switches) -> int:
    """No switches."""
    return _show(Administration.list_writers, layout.writers)


def list_providers(switches: Switches) -> int:
    """No switches."""
    return _show(Administration.list_providers, layout.providers)


def list_volumes(switches: Switches) -> int:
    """No switches."""
    return _show(Administration.volume_list, layout.volumes)


def _show(ask: Callable[[Administration], list[T]], text: Callable[[list[T]], str]) -> int:
    with Administration(client=CLIENT) as administration:
        found = ask(administration)
    say(text(found) if found else layout.NOTHING)
    return EXIT_OK


def create_shadow(switches: Switches) -> int:
    """``/for=VOLUME [/autoretry=MINUTES]``: a client-accessible copy without writers, as on Windows."""
    switches.need("for")
    minutes = switches.value("autoretry") or "0"
    if not (minutes.isascii() and minutes.isdigit()):
        raise UsageError(f"/autoretry={minutes} is no number of minutes")
    with BackupComponents(client=CLIENT, on_notice=show_notice) as calls:
        record = create_set(calls, [switches.value("for")], Context.CLIENT_ACCESSIBLE, int(minutes) * 60)
    say(layout.created(switches.value("for"), record.snapshots[0]))
    return EXIT_OK


def delete_shadows(switches: Switches) -> int:
    """``/for=VOLUME [/oldest | /all] | /shadow=ID | /all [/quiet] [/any]``.

    Only client-accessible copies, as on Windows, unless /any (ours) is given.
    """
    chosen = _to_delete(switches)
    with BackupComponents(client=CLIENT) as calls:
        copies = _deletable(calls.query(switches.guid("shadow"), "", switches.value("for")), switches)
        copies = copies[:1] if chosen == "oldest" else copies
        if not copies:
            say(layout.NOTHING)
            return EXIT_FAILURE
        quiet = "quiet" in switches.flags
        if not quiet and not confirmed(f"Do you really want to delete {len(copies)} shadow copies"):
            return EXIT_FAILURE
        deleted = 0
        for copy in copies:
            result = calls.delete_snapshots(copy.snapshot_id, ObjectType.SNAPSHOT)
            deleted += result.deleted
            if result.not_deleted:
                note(f"Error: {result.not_deleted} was not deleted: {result.message}")
    if not quiet:
        say(f"\nSuccessfully deleted {deleted} shadow copies.")
    return EXIT_OK if deleted == len(copies) else EXIT_FAILURE


def _to_delete(switches: Switches) -> str:
    chosen = [name for name in ("oldest", "all", "shadow") if name in switches.flags or switches.value(name)]
    if len(chosen) != 1 or (chosen == ["oldest"] and not switches.value("for")):
        raise UsageError("say which: /for=VOLUME with /oldest or /all, /shadow=ID, or /all for every volume")
    return chosen[0]


def _deletable(copies: list[SnapshotProperties], switches: Switches) -> list[SnapshotProperties]:
    """Oldest first. Errors: VSS_E_UNSUPPORTED_CONTEXT when there are only copies that vssadmin does not delete."""
    copies = oldest_first(copies)
    if "any" in switches.flags:
        return copies
    allowed = [copy for copy in copies if copy.attributes & Attribute.CLIENT_ACCESSIBLE]
    if copies and not allowed:
        raise VssError(
            Code.VSS_E_UNSUPPORTED_CONTEXT,
            f"{len(copies)} shadow copies match and none is client-accessible, the only kind that vssadmin deletes; "
            "use diskshadow or 'shadowset delete', or add /any",
        )
    return allowed


def revert_shadow(switches: Switches) -> int:
    """``/shadow=ID [/forcedismount] [/quiet]``: starts the revert; query reverts tells how far it is."""
    switches.need("shadow")
    with Administration(client=CLIENT) as administration:
        copies = administration.query(switches.guid("shadow"))
        if not copies:
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy {switches.value('shadow')}; list the shadows"
            )
        _refuse_mounted(copies[0], "forcedismount" in switches.flags)
        question = f"Do you really want to overwrite volume {volume_of(copies[0])} with this shadow copy"
        if "quiet" not in switches.flags and not confirmed(question):
            return EXIT_FAILURE
        status = administration.revert_to_snapshot(copies[0].snapshot_id)
    say(f"The revert of volume {status.volume} is under way; 'vssadmin query reverts' tells how far it is.")
    return EXIT_OK


def _refuse_mounted(copy: SnapshotProperties, force: bool) -> None:
    if copy.mount_points and force:
        raise VssError(
            Code.VSS_E_VOLUME_IN_USE,
            f"volume {copy.original_volume} is mounted on {copy.mount_points[0]}, and /forcedismount cannot take a "
            f"mounted file system from its users here; unmount it and 'shadowset volume detach {copy.original_volume}'",
        )


def query_reverts(switches: Switches) -> int:
    """``/for=VOLUME | /all``."""
    with Administration(client=CLIENT) as administration:
        volume = switches.value("for")
        volumes = [volume] if volume else [info.name for info in administration.volume_list()]
        statuses = [administration.query_revert_status(name) for name in volumes]
    under_way = [status for status in statuses if status.phase != "none"]
    say(layout.reverts(under_way) if under_way else layout.NOTHING)
    return EXIT_OK
