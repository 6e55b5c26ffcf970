"""Messages of generic netlink, and a conversation with the kernel's own controller."""

from __future__ import annotations

import errno

import pytest

from shadowset.nbd_provider.attach import genetlink
from shadowset.nbd_provider.attach.genetlink import pack, text, u8, u32, u64, unpack


def test_attributes_are_padded_nested_and_come_back() -> None:
    data = pack([(1, u8(7)), (2, text("abc")), (3, [(1, u32(5)), (2, u64(9))])])
    assert data[:8] == b"\x05\0\x01\0\x07\0\0\0" and len(data) == 8 + 8 + 4 + 8 + 12
    found = dict(unpack(data))
    assert genetlink.number(found[1]) == 7 and found[2] == b"abc\0"
    assert [(kind, genetlink.number(value)) for kind, value in unpack(found[3])] == [(1, 5), (2, 9)]


@pytest.mark.parametrize("data", [b"\x03\0\x01\0", b"\x09\0\x01\0abcd"])
def test_a_length_that_cannot_be_is_an_error(data: bytes) -> None:
    with pytest.raises(OSError) as caught:
        list(unpack(data))
    assert caught.value.errno == errno.EBADMSG


def test_the_kernel_knows_its_own_controller_and_no_such_family() -> None:
    assert genetlink.family("nlctrl") == 16
    with pytest.raises(OSError) as caught:
        genetlink.family("nosuchfamily")
    assert caught.value.errno == errno.ENOENT
