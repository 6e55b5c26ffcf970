def find_writes(
    buffer: memoryview,
    start: int,
    end: int,
    size: int,
    most: int,
    words: memoryview = ...,
    limit: int = ...,
    shift: int = ...,
    pages: dict[int, None] = ...,
    /,
) -> tuple[int, int]: ...
def do_writes(fd: int, buffer: memoryview, start: int, count: int, /) -> tuple[int, bytes]: ...
