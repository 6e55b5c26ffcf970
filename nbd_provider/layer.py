"""Serves one copy writable over NBD; the coordinator starts it.

A pending copy, so that writers can recover inside it: what is written goes to the copy's layer. SIGTERM seals the
layer; any other end leaves it unsealed, and nobody uses it. With ``--scratch``, any copy, so that a file system can be
mounted whose log is to be replayed first: what is written goes to a file without a name, and with the process.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from uuid import UUID

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.copy_export import CopyExport
from shadowset.nbd_provider.listening import listen_unix
from shadowset.nbd_provider.process import start_logging
from shadowset.nbd_provider.server import Server
from shadowset.nbd_provider.store.overlay import Layer, OpenLayer, scratch_layer
from shadowset.nbd_provider.store.place import locate
from shadowset.vss.codes import Code, VssError


class LayerExport(CopyExport):
    """The copy with its layer over it; clients share it, so closing is left to the process."""

    def __init__(self, storage: str, origin: str, copy_id: UUID, scratch: str = "") -> None:
        """``scratch``: the directory of a layer that nobody keeps."""
        super().__init__(storage, origin, copy_id, str(copy_id))
        self.sender = None
        self.flags = p.FLAG_HAS_FLAGS | p.FLAG_SEND_FLUSH | p.FLAG_CAN_MULTI_CONN
        self.description = f"shadow copy {copy_id}, " + ("with changes of its own" if scratch else "not sealed yet")
        self._home = self._reader.home
        self.layer: Layer = (
            scratch_layer(scratch, self.size, super().read)
            if scratch
            else OpenLayer(self._home, copy_id, self.size, super().read)
        )

    def finish(self) -> None:
        """Seal what is to be kept.

        Errors: OSError; VSS_E_BAD_STATE when the storage has moved meanwhile, so that the layer may not be in it.

        A move takes the layers of the old directory along once more after its durable step.
        """
        if not isinstance(self.layer, OpenLayer):
            return
        self.layer.seal()
        if locate(self._storage) != self._home:
            raise VssError(Code.VSS_E_BAD_STATE, f"shadow storage {self._home} has moved meanwhile; make the set again")

    def context_names(self) -> list[str]:
        """None: what is allocated or changed may be another in a moment."""
        return []

    def ranges(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """All of it."""
        yield offset, end

    def read_now(self, offset: int, target: memoryview) -> bool:
        """Never without a look at the layer."""
        return False

    def read(self, offset: int, length: int) -> bytes:
        """Bytes as they are by now."""
        return self.layer.read(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        """Into the layer."""
        self.layer.write(offset, data)

    def close(self) -> None:
        """Nothing: others may use it."""


class _One:
    """A directory of one export."""

    def __init__(self, export: LayerExport) -> None:
        self._export = export

    def names(self) -> list[str]:
        """Its name."""
        return [self._export.name]

    def find(self, name: str) -> LayerExport | None:
        """It, also as the default."""
        return self._export if name in ("", self._export.name) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when the layer was sealed, or was none to be kept."""
    parser = argparse.ArgumentParser("shadowset-layer", description="Serve a shadow copy writable over NBD.")
    parser.add_argument("--storage", required=True, metavar="DIR", help="shadow storage directory of the volume")
    parser.add_argument("--origin", required=True, metavar="PATH", help="block device or image file of the volume")
    parser.add_argument("--copy", required=True, metavar="ID", help="the copy, pending unless --scratch")
    parser.add_argument("--scratch", default="", metavar="DIR", help="forget what is written; meanwhile it is here")
    parser.add_argument("--nbd", required=True, metavar="SOCKET", help="Unix socket to serve NBD on")
    options = parser.parse_args(arguments)
    start_logging("info")
    try:
        export = LayerExport(options.storage, options.origin, UUID(options.copy), options.scratch)
        server = Server(_One(export))
        server.serve_nbd(listen_unix(options.nbd))
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        server.run()
        export.finish()
    except (VssError, OSError) as error:
        print(f"shadowset-layer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
