"""How much a provider keeps on hosts of different sizes."""

from __future__ import annotations

from shadowset.nbd_provider.store.shares import LITTLE, share

MIB = 1 << 20


def test_a_large_host_gets_all_and_a_small_one_its_part() -> None:
    assert share(64 * MIB, MIB, host=LITTLE) == share(64 * MIB, MIB, host=100 * LITTLE) == 64 * MIB
    assert share(64 * MIB, MIB, host=512 * MIB) == 4 * MIB
    assert share(64 * MIB, MIB, host=52 * MIB) == MIB
    assert share(MIB // 2, MIB // 4, host=512 * MIB) == MIB // 2
