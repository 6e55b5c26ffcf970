"""What a storage remembers beside its copies: its limits, how the origin looked at the last clean end, a revert."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final
from uuid import UUID

from shadowset.vss.codes import Code, VssError

SETTINGS: Final = struct.Struct("<QIIII4Q16s32sQQ16s")
"""maximum size, policy, warning, mark kind, revert active; size, mtime, ctime, inode, boot id, digest, written of the
mark; position and copy of the revert."""
SETTINGS_OFFSET: Final = 128
SETTINGS_SIZE: Final = SETTINGS.size + 4
DEFAULT_WARN_PERCENT: Final = 80
NO_ID: Final = UUID(int=0)


class Policy(IntEnum):
    """What happens when the storage is full."""

    DELETE_OLDEST = 0
    REFUSE_NEW = 1
    PROTECT_COPIES = 2

    @property
    def text(self) -> str:
        """As the command line and the control socket name it."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def parse(cls, text: str) -> Policy:
        """From its name. Errors: E_INVALIDARG."""
        for policy in cls:
            if policy.text == text:
                return policy
        known = ", ".join(policy.text for policy in cls)
        raise VssError(Code.E_INVALIDARG, f"{text!r} is no policy of a shadow storage; take one of {known}")


@dataclass(frozen=True)
class Limits:
    """``max_size`` in bytes, 0 is unlimited; a warning is given from ``warn_percent`` on, over 100 means never."""

    max_size: int = 0
    policy: Policy = Policy.DELETE_OLDEST
    warn_percent: int = DEFAULT_WARN_PERCENT

    def changed(self, max_size: int | None, policy: str | None, warn_percent: int | None) -> Limits:
        """With what is not None put in. Errors: E_INVALIDARG."""
        if max_size is not None and not 0 <= max_size < 1 << 63:
            raise VssError(Code.E_INVALIDARG, f"{max_size} is no maximum size; give bytes, or 0 for unlimited")
        if warn_percent is not None and not 1 <= warn_percent <= 101:
            raise VssError(
                Code.E_INVALIDARG, f"{warn_percent} is no warning threshold; give 1 to 100 percent, 101: never"
            )
        return replace(
            self,
            max_size=self.max_size if max_size is None else max_size,
            policy=self.policy if policy is None else Policy.parse(policy),
            warn_percent=self.warn_percent if warn_percent is None else warn_percent,
        )


class MarkKind(IntEnum):
    """What sort of origin a mark describes."""

    NONE = 0
    FILE = 1
    BLOCK = 2


@dataclass(frozen=True)
class OriginMark:
    """How the origin looked at a clean end; times in nanoseconds, ``written`` is a block device's count of writes."""

    kind: MarkKind
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    boot_id: UUID = NO_ID
    digest: bytes = bytes(32)
    written: int = 0


NO_MARK: Final = OriginMark(MarkKind.NONE)


@dataclass(frozen=True)
class Revert:
    """A revert that is under way: all chunks below ``position`` are done and durable."""

    copy_id: UUID
    position: int = 0


@dataclass
class Settings:
    """All of it, as it stands in the header page after the header."""

    limits: Limits = field(default_factory=Limits)
    mark: OriginMark = NO_MARK
    revert: Revert | None = None

    def pack(self) -> bytes:
        """Its bytes, with their CRC-32."""
        limits, mark, revert = self.limits, self.mark, self.revert or Revert(NO_ID)
        body = SETTINGS.pack(
            limits.max_size,
            limits.policy,
            limits.warn_percent,
            mark.kind,
            int(self.revert is not None),
            mark.size,
            mark.mtime_ns,
            mark.ctime_ns,
            mark.inode,
            mark.boot_id.bytes,
            mark.digest,
            mark.written,
            revert.position,
            revert.copy_id.bytes,
        )
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes) -> Settings:
        """Read them; zeros are the defaults. Errors: ValueError with the reason."""
        if not any(data):
            return cls()
        body = data[: SETTINGS.size]
        if struct.unpack_from("<I", data, SETTINGS.size)[0] != zlib.crc32(body):
            raise ValueError("the checksum of its settings is wrong")
        most, policy, warn, kind, active, size, mtime, ctime, inode, boot, digest, written, position, copy = (
            SETTINGS.unpack(body)
        )
        mark = OriginMark(MarkKind(kind), size, mtime, ctime, inode, UUID(bytes=boot), digest, written)
        revert = Revert(UUID(bytes=copy), position) if active else None
        return cls(Limits(most, Policy(policy), warn), mark, revert)
