"""``shadowset page``: what there is and how it goes, in a browser."""

from __future__ import annotations

import argparse
import os
import sys

from shadowset.requester.cli.options import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "page",
        run,
        "serve a status page for a browser on this host",
        "Serve a page until interrupted: volumes with the course of their shadow storage, shadow copies with the\n"
        "timeline of each set, writers and their last error, jobs, events, and the backups, of which single files\n"
        "can be downloaded. Nothing can be changed through it.\n\n"
        "It listens on the loopback interface, where every user of the host could connect; so the address that is\n"
        "printed has a secret in it. Given the path of a socket instead, it lets in whoever may open that: for a\n"
        "reverse proxy, or 'ssh -L 8471:/run/shadowset/page.sock HOST' from elsewhere. The files of backups are read\n"
        "with the rights of whoever runs this.",
        "shadowset page\nshadowset page --listen /run/shadowset/page.sock --backups /backup",
    )
    command.add_argument(
        "--listen", default="127.0.0.1:8471", metavar="ADDRESS", help="127.0.0.1:PORT or a path (default: port 8471)"
    )
    command.add_argument(
        "--backups",
        action="append",
        default=[],
        metavar="DIR",
        help="show the backups in this directory too, besides those of the jobs; may be repeated",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    import secrets
    import threading

    from shadowset.requester.cli.output import note, say
    from shadowset.requester.page.server import PageServer, listening
    from shadowset.requester.page.sources import Sources
    from shadowset.vss.paths import Paths

    sources = Sources(Paths.from_environment(os.environ), options.backups)

    def sample() -> None:
        try:
            sources.usage.run()
        except OSError as error:
            note(f"shadowset: the course of the shadow storage is not kept: {error.filename}: {error.strerror}")

    with listening(options.listen) as (listener, is_unix):
        token = None if is_unix else secrets.token_urlsafe(24)
        with PageServer(sources, listener, token) as server:
            host, *_ = options.listen.rpartition(":")
            where = f"http://{host}:{listener.getsockname()[1]}/?token={token}" if token else options.listen
            say(where)
            sys.stdout.flush()
            threading.Thread(target=sample, daemon=True).start()
            try:
                server.serve_forever(0.2)
            finally:
                sources.usage.stop()
    return 0
