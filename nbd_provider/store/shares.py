"""What a provider may keep in memory at once, by how much the host has.

Data that waits is in memory twice, here and in the page cache of the host, where it stays until it is answered. With
little memory it rather waits there alone.
"""

from __future__ import annotations

import os
from typing import Final

HOST: Final = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
LITTLE: Final = 1 << 30
PARTS: Final = 128


def share(most: int, least: int, host: int = HOST) -> int:
    """``most`` bytes where there is a GiB or more; else a 128th of what there is, ``least`` at least. Pure."""
    return most if host >= LITTLE else min(most, max(least, host // PARTS))
