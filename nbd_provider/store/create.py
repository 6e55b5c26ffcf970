"""New files of a shadow storage."""

from __future__ import annotations

import os
from typing import BinaryIO
from uuid import uuid4

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Words, aside_step, storage_error, sync_directory
from shadowset.nbd_provider.store.session import session_id
from shadowset.vss.codes import Code, VssError


def create_storage(storage: str, size: int, chunk_size: int, copies: int | None = None) -> None:
    """Make an empty shadow storage for a volume of ``size`` bytes and so many copies in a new or empty directory.

    Errors: E_INVALIDARG, VssError when it is an older one without its table, OSError.
    """
    capacity = layout.DEFAULT_CAPACITY if copies is None else copies
    if not 0 < capacity <= layout.MAX_CAPACITY:
        message = f"a volume cannot have {capacity} shadow copies; give a number from 1 to {layout.MAX_CAPACITY}"
        raise VssError(Code.E_INVALIDARG, message)
    if not layout.MIN_CHUNK_SIZE <= chunk_size <= layout.MAX_CHUNK_SIZE or chunk_size & (chunk_size - 1):
        raise VssError(
            Code.E_INVALIDARG,
            f"chunk size {chunk_size} is no power of two between {layout.MIN_CHUNK_SIZE} and {layout.MAX_CHUNK_SIZE}",
        )
    os.makedirs(f"{storage}/segments", mode=0o700, exist_ok=True)
    if os.listdir(f"{storage}/segments"):
        raise storage_error(storage, "it has slots, and its table is missing", aside_step(storage))
    head = new_head(storage, layout.chunk_count(size, chunk_size))
    put_in_place(storage, head)
    head.close()
    header = layout.Header(chunk_size, size, capacity, uuid4(), session_id(storage), True, 0, 0)
    temporary = f"{storage}/table.new"
    with private_file(temporary) as file:
        file.write(header.pack())
        file.truncate(layout.table_size(capacity))
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, f"{storage}/table")
    sync_directory(storage)


def private_file(path: str) -> BinaryIO:
    """A new file that only its owner reads: it holds, or leads to, data that was deleted from the volume."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def new_head(storage: str, chunks: int) -> Words:
    """A durable ``head.new`` of zeros, opened before it takes its place, so that whatever fails, one head is in use."""
    temporary = f"{storage}/head.new"
    with private_file(temporary) as file:
        file.truncate(max(chunks, 1) * 8)
        os.fsync(file.fileno())
    return Words(temporary, chunks)


def lengthen_head(storage: str, chunks: int) -> None:
    """Durably make room for the words of so many chunks. Errors: OSError."""
    fd = os.open(f"{storage}/head", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, max(chunks, 1) * 8)
        os.fsync(fd)
    finally:
        os.close(fd)


def put_in_place(storage: str, head: Words) -> None:
    """Let ``head`` be what readers open from now on. Errors: OSError, and the new one is closed."""
    try:
        os.rename(f"{storage}/head.new", f"{storage}/head")
    except OSError:
        head.close()
        raise
