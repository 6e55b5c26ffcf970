"""The command ``shadowset-attach``: makes a volume's NBD export a block device, and takes it away again.

Attaching what is attached gives the same device. What a crash or a reboot left is recognised and removed first.

The ways are imported late, each only where it is gone: this command may run in very little memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys

from shadowset.nbd_provider.attach import client, state, usage
from shadowset.nbd_provider.attach.client import DEAD_TIME_S
from shadowset.nbd_provider.attach.state import Attachment
from shadowset.vss.codes import Code, VssError

LINKS = "/dev/shadowset"
NO_MEMORY = "there is not enough memory for this; end something else and try again"


def attach(arguments: argparse.Namespace) -> int:
    """Prints ``{"device", "via", "pid"}``. Errors: VssError, and nothing is left behind."""
    directory, made = _directory(arguments, make=True)
    try:
        with state.lock(directory):
            attachment = _attached(directory, arguments) or _attach_anew(directory, arguments)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        raise
    print(json.dumps({"device": attachment.device, "via": attachment.via, "pid": attachment.pid}))
    return 0


def detach(arguments: argparse.Namespace) -> int:
    """What is not attached is left as it is.

    Errors: VssError while the volume is in use, or its server does not answer and ``--force`` was not given.
    """
    if not os.path.isdir(arguments.runtime):
        return 0
    directory, _ = _directory(arguments, make=False)
    with state.lock(directory):
        attachment = state.load(directory)
        if attachment is not None and attachment.device:
            usage.refuse_when_used(attachment.device, attachment.name, look_only=True)
            if _works(directory, attachment) and not arguments.force:
                _flush(attachment)
        _clean(directory, attachment, arguments.name, abort=arguments.force)
    return 0


def reconnect(arguments: argparse.Namespace) -> int:
    """After a restart of the provider. The bridge of the FUSE way has already done it by itself."""
    directory, _ = _directory(arguments, make=False)
    with state.lock(directory):
        attachment = _working(directory, arguments.name)
        attachment.nbd = arguments.nbd or attachment.nbd
        if attachment.via == "nbd":
            from shadowset.nbd_provider.attach import nbd_way

            nbd_way.reconnect(attachment)
            state.save(directory, attachment)
    return 0


def resize(arguments: argparse.Namespace) -> int:
    """The device takes in that its export has grown, also under a mounted file system; prints ``{"device", "size"}``.

    Errors: VssError when nothing is attached, nobody serves the export, or it is smaller than the device.
    """
    directory, _ = _directory(arguments, make=False)
    with state.lock(directory):
        attachment = _working(directory, arguments.name)
        size = _size_of_export(attachment)
        if size > _size_of_device(attachment):
            _resize_by(directory, attachment, size)
    print(json.dumps({"device": attachment.device, "size": size}))
    return 0


def handover(arguments: argparse.Namespace) -> int:
    """Whatever stands between kernel and provider goes on with the installed code; prints ``{"pid", "stall_ms"}``.

    The kernel's nbd has no such process: then both are 0. Errors: VssError, and what was there goes on.
    """
    directory, _ = _directory(arguments, make=False)
    with state.lock(directory):
        attachment = _working(directory, arguments.name)
        pid, stall = 0, 0.0
        if attachment.via == "fuse":
            from shadowset.nbd_provider.attach import fuse_way

            facts = fuse_way.hand_over(directory, attachment.name)
            pid, stall = facts.pid, facts.stall_ms
    print(json.dumps({"pid": pid, "stall_ms": round(stall, 3)}))
    return 0


def _size_of_export(attachment: Attachment) -> int:
    """In whole sectors, as a device has it. Errors: VssError when the device is larger."""
    sock, export = client.connect(attachment.nbd, attachment.export)
    sock.close()
    there, size = _size_of_device(attachment), export.size // 512 * 512
    if size < there:
        message = f"volume {attachment.name} has {size} bytes now and {attachment.device} has {there}: a device cannot "
        raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message + "shrink; make the origin as large again")
    return size


def _size_of_device(attachment: Attachment) -> int:
    from shadowset.nbd_provider.attach import loop

    return loop.device_size(attachment.device)


def _resize_by(directory: str, attachment: Attachment, size: int) -> None:
    if attachment.via == "fuse":
        from shadowset.nbd_provider.attach import fuse_way

        fuse_way.resize(directory, attachment, size)
        return
    from shadowset.nbd_provider.attach import nbd_way

    nbd_way.resize(attachment, size)


def _working(directory: str, name: str) -> Attachment:
    """The attachment that is there. Errors: VSS_E_BAD_STATE."""
    attachment = state.load(directory)
    if attachment is None or not _works(directory, attachment):
        raise VssError(Code.VSS_E_BAD_STATE, f"volume {name} is not attached, or its device is broken: attach it")
    return attachment


def _directory(arguments: argparse.Namespace, make: bool) -> tuple[str, bool]:
    """The real path of the volume's run-time directory, and whether it was made now."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", arguments.name):
        message = f'"{arguments.name}" cannot name a volume: letters, digits, "_", "." and "-" can, 64 at most'
        raise VssError(Code.E_INVALIDARG, message)
    if os.geteuid() != 0:
        raise VssError(Code.E_ACCESSDENIED, "only root can attach and detach volumes: run shadowset-attach as root")
    directory = os.path.realpath(arguments.runtime)
    present = os.path.isdir(directory)
    if not present and not make:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"volume {arguments.name} is not attached: there is no {directory}")
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise VssError(Code.E_ACCESSDENIED, f"cannot make {directory}: {error.strerror}") from error
    return directory, not present


def _attached(directory: str, arguments: argparse.Namespace) -> Attachment | None:
    """The attachment that is there and works, if it is what was asked for."""
    attachment = state.load(directory)
    if attachment is None or not _works(directory, attachment):
        return None
    wanted = (os.path.abspath(arguments.nbd), arguments.export or arguments.name)
    if (attachment.nbd, attachment.export) != wanted or arguments.via not in ("auto", attachment.via):
        there = f'{attachment.device} via {attachment.via} to "{attachment.export}" at {attachment.nbd}'
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"volume {arguments.name} is {there}: detach it first")
    return attachment


def _attach_anew(directory: str, arguments: argparse.Namespace) -> Attachment:
    _clean(directory, state.load(directory), arguments.name, abort=False)
    attachment = Attachment(
        name=arguments.name,
        via=_choose(arguments.via),
        nbd=os.path.abspath(arguments.nbd),
        export=arguments.export or arguments.name,
        boot=state.boot_id(),
        link=f"{os.path.abspath(arguments.links)}/{arguments.name}",
    )
    try:
        state.save(directory, attachment)
        _attach_by(directory, attachment, arguments.dead_time)
        state.make_link(attachment.link, attachment.device)
        state.save(directory, attachment)
    except BaseException:
        _clean(directory, attachment, arguments.name, abort=True)
        raise
    return attachment


def _attach_by(directory: str, attachment: Attachment, dead_time: float) -> None:
    if attachment.via == "fuse":
        from shadowset.nbd_provider.attach import fuse_way

        fuse_way.attach(directory, attachment, dead_time)
        return
    from shadowset.nbd_provider.attach import nbd_way

    nbd_way.attach(attachment, dead_time)


def _choose(via: str) -> str:
    if via == "fuse":
        return via
    from shadowset.nbd_provider.attach import netlink

    if netlink.available():
        return "nbd"
    if via == "nbd":
        message = "this kernel has no nbd: load the module, or attach with --via fuse"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message)
    return "fuse"


def _works(directory: str, attachment: Attachment) -> bool:
    if attachment.boot != state.boot_id() or not attachment.device:
        return False
    if attachment.via == "fuse":
        from shadowset.nbd_provider.attach import fuse_way

        return fuse_way.works(directory, attachment)
    from shadowset.nbd_provider.attach import nbd_way

    return nbd_way.works(attachment)


def _flush(attachment: Attachment) -> None:
    """Written data reaches the server before the device goes; asked first whether one is there, as it would wait."""
    try:
        sock, _ = client.connect(attachment.nbd, attachment.export)
    except client.NbdError as error:
        lost = "or detach with --force and lose what was written since the last flush"
        message = f"volume {attachment.name} cannot be flushed, {error.message}, {lost}"
        raise VssError(Code.VSS_E_FLUSH_WRITES_TIMEOUT, message) from error
    sock.close()
    if attachment.via == "nbd":
        from shadowset.nbd_provider.attach import nbd_way

        nbd_way.reconnect(attachment)
    fd = os.open(attachment.device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        message = f"volume {attachment.name} cannot be flushed: {error.strerror}; detach with --force to give it up"
        raise VssError(Code.VSS_E_FLUSH_WRITES_TIMEOUT, message) from error
    finally:
        os.close(fd)


def _clean(directory: str, attachment: Attachment | None, name: str, abort: bool) -> None:
    """Removes everything of this volume that is there. Errors: VssError while its device is in use."""
    current = attachment if attachment is not None and attachment.boot == state.boot_id() else None
    if current is not None and current.via == "nbd":  # what a bridge had left went before this was attached
        from shadowset.nbd_provider.attach import nbd_way

        nbd_way.clean(current, abort)
    elif current is not None or any(name.startswith(("bridge", "serving")) for name in os.listdir(directory)):
        from shadowset.nbd_provider.attach import fuse_way

        fuse_way.clean(directory, current, name, abort)
    if attachment is not None:
        state.drop_link(attachment.link, attachment.device)
    state.forget(directory)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shadowset-attach", description="Attach a volume's NBD export as a device.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    texts = {
        attach: "attach, and print the device",
        detach: "undo it",
        reconnect: "after a restart",
        resize: "after the export has grown",
        handover: "go on with the installed code",
    }
    for call, text in texts.items():
        command = commands.add_parser(call.__name__, help=text)
        command.set_defaults(call=call)
        command.add_argument("name", metavar="NAME", help="name of the volume")
        command.add_argument("--runtime", required=True, metavar="DIR", help="run-time directory of the volume")
        if call in (attach, reconnect):
            command.add_argument("--nbd", required=call is attach, metavar="SOCKET", help="socket of the NBD server")
        if call is attach:
            _add_attach_options(command)
        if call is detach:
            command.add_argument("--force", action="store_true", help="give up what no server takes any more")
    return parser


def _add_attach_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--via", choices=("auto", "nbd", "fuse"), default="auto")
    command.add_argument("--export", metavar="EXPORT", help="export name (the volume's name)")
    command.add_argument("--links", default=LINKS, metavar="DIR", help="where the device gets its name (%(default)s)")
    text = "how long applications wait for a server before they see errors (%(default)g)"
    command.add_argument("--dead-time", type=float, default=DEAD_TIME_S, metavar="SECONDS", help=text)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 1 with one sentence on stderr."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.call(arguments)
    except VssError as error:
        print(f"shadowset-attach: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"shadowset-attach: volume {arguments.name}: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"shadowset-attach: volume {arguments.name}: {NO_MEMORY}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
