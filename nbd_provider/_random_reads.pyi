from shadowset.nbd_provider.random_reads import Owner, Result

class _Pool: ...

def make_pool(wake: int, /) -> _Pool: ...
def begin(
    pool: _Pool,
    owner: Owner,
    fd: int,
    buffer: memoryview | bytes,
    size: int,
    place: int,
    near: int,
    room: int,
    structured: bool,
    /,
) -> tuple[int, int, list[bytes], int, int]: ...
def finish(pool: _Pool, /) -> list[tuple[Owner, list[Result], int]]: ...
def is_waiting(pool: _Pool, /) -> bool: ...
def end(pool: _Pool, /) -> None: ...
