"""Reading a transport file into an image. Errors: VssError with a sentence that names the file."""

from __future__ import annotations

import hashlib
import os
import tarfile
from typing import TypeVar

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.transport import DATA, DOCUMENT, FORMAT, MAP, Transport, TransportMap

BLOCK = 1 << 20
LARGEST = 256 << 20
"""More bytes than any list of ranges takes."""
T = TypeVar("T")


class Archive:
    """An open transport file; ``transport`` says what it carries."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._tar = tarfile.open(path, "r:")  # noqa: SIM115
        except FileNotFoundError:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{path} does not exist") from None
        except (OSError, tarfile.TarError) as error:
            raise self._bad(str(error)) from None
        self.transport = self._json("copy.json", Transport)
        if self.transport.format != FORMAT:
            self.close()
            raise self._bad(f"it has format {self.transport.format}, and {FORMAT} is known; update Shadowset")

    def _bad(self, why: str) -> VssError:
        return VssError(Code.E_INVALIDARG, f"{self._path} is no exported shadow copy: {why}")

    def _member(self, name: str) -> bytes:
        try:
            member = self._tar.getmember(name)
            file = self._tar.extractfile(member)
            if file is None or member.size > LARGEST:
                raise self._bad(f"its member {name} is none")
            return file.read()
        except (KeyError, OSError, tarfile.TarError) as error:
            raise self._bad(f"its member {name} cannot be read: {error}") from None

    def _json(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self._member(name), type=kind)
        except msgspec.MsgspecError as error:
            raise self._bad(f"its member {name} is damaged: {error}") from None

    @property
    def document(self) -> str:
        """The backup components document, "" for none."""
        return self._member(DOCUMENT).decode() if DOCUMENT in self._tar.getnames() else ""

    def write_to(self, target: int) -> None:
        """Put the carried ranges into an image, which is to have the copy's size already. Errors: OSError too."""
        carried = self._json(MAP, TransportMap)
        self._check(carried)
        source = self._tar.extractfile(DATA)
        assert source is not None
        digest = hashlib.sha256()
        for offset, length in carried.ranges:
            for at in range(offset, offset + length, BLOCK):
                data = source.read(min(BLOCK, offset + length - at))
                digest.update(data)
                _write(target, data, at)
        if digest.hexdigest() != carried.digest:
            raise self._bad("its data is damaged; export the copy again")

    def _check(self, carried: TransportMap) -> None:
        """Ranges ascend within the copy, and the data is as long as they say."""
        end = 0
        for offset, length in carried.ranges:
            if offset < end or length <= 0 or offset + length > self.transport.copy.size:
                raise self._bad(f"its range ({offset}, {length}) does not fit")
            end = offset + length
        try:
            size = self._tar.getmember(DATA).size
        except (KeyError, tarfile.TarError):
            size = -1
        if size != sum(length for _, length in carried.ranges):
            raise self._bad("its data is not as long as its ranges")

    def close(self) -> None:
        """Close the file."""
        self._tar.close()


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written
