"""Ranges of a file, as partial files and directed targets name them.

Inline they are ``offset:length,…``, each number in decimal or in hexadecimal after ``0x``. A *ranges file* holds them
in binary: a count, then as many pairs of offset and length, all unsigned, of 64 bits, least significant byte first.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from shadowset.vss.codes import Code, VssError

_RANGE = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}):(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})", re.ASCII)
_END = 2**64
MAX_RANGES = 1_000_000


class Range(NamedTuple):
    """Bytes of a file."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + self.length


def _invalid(sentence: str) -> VssError:
    return VssError(Code.E_INVALIDARG, sentence)


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


def names_ranges_file(text: str) -> bool:
    """Whether a partial file's ranges are the path of a ranges file."""
    return text.startswith("/")


def parse_ranges(text: str) -> list[Range]:
    """Inline ranges in the order given. Errors: E_INVALIDARG for bad grammar, empty or overlapping ranges."""
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise _invalid(f"{part[:60]!r} is no range; write offset:length, in decimal or 0x hexadecimal")
        ranges.append(Range(_number(match[1]), _number(match[2])))
    return _checked(ranges)


def parse_ranges_file(data: bytes) -> list[Range]:
    """The ranges in a ranges file. Errors: E_INVALIDARG as ``parse_ranges``, and when its length fits no count."""
    count = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else -1
    if not 0 <= count <= MAX_RANGES or len(data) != 8 + 16 * count:
        raise _invalid(f"a ranges file of {len(data)} bytes does not hold the number of ranges that it tells")
    return _checked([Range(*pair) for pair in struct.iter_unpack("<QQ", data[8:])])


def ranges_text(ranges: Sequence[Range]) -> str:
    """Ranges as inline text."""
    return ",".join(f"{each.offset}:{each.length}" for each in ranges)


def ranges_file(ranges: Sequence[Range]) -> bytes:
    """Ranges as the contents of a ranges file."""
    return struct.pack("<Q", len(ranges)) + b"".join(struct.pack("<QQ", *each) for each in ranges)


def require_within(ranges: Sequence[Range], size: int, name: str) -> None:
    """Errors: E_INVALIDARG for the first range that ends behind the end of the file ``name`` of ``size`` bytes."""
    for each in ranges:
        if each.end > size:
            raise _invalid(f"the range {each.offset}:{each.length} of {name} ends behind its end at {size} bytes")


def _checked(ranges: list[Range]) -> list[Range]:
    for each in ranges:
        if not each.length or each.end > _END:
            raise _invalid(f"the range {each.offset}:{each.length} is empty or ends beyond 64 bits")
    ordered = sorted(ranges)
    for before, after in itertools.pairwise(ordered):
        if after.offset < before.end:
            raise _invalid(
                f"the ranges {before.offset}:{before.length} and {after.offset}:{after.length} overlap; "
                f"name each byte once"
            )
    return ranges
