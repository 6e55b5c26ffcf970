import mmap

from shadowset.nbd_provider.store.resident import Outgoing, Place

def copy_resident(target: bytearray | memoryview, window: mmap.mmap, offset: int, ask: bool = ..., /) -> bool: ...
def guard(memory: mmap.mmap, lost: bytearray, /) -> object: ...
def read_cached(fd: int, offset: int, target: bytearray | memoryview, /) -> bool: ...
def read_arrived(
    fd: int, ranges: list[tuple[int, int]], target: bytearray | memoryview, start: bool, /
) -> tuple[int, int]: ...
def fill_copy(
    target: bytearray | memoryview,
    offset: int,
    fixed: tuple[int, int, int, int, bytes, int, int],
    row: bytes,
    segments: bytes,
    window: mmap.mmap | None,
    at: int,
    /,
) -> bool | None: ...
def send_copy(socket: int, replies: list[Outgoing], holes: bool, place: Place, /) -> tuple[int, int, int, int]: ...
