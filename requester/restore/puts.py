"""What goes where: a whole file to a place, or ranges of a stored file into ranges of another file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shadowset.requester.backup.manifest import BundleError, ManifestFile
from shadowset.vss.codes import Code, VssError
from shadowset.vss.ranges import Range, parse_ranges


class Span(NamedTuple):
    """``length`` bytes of the stored file from ``source`` on go to ``target`` in the destination."""

    source: int
    target: int
    length: int


@dataclass(frozen=True)
class Put:
    """One file's way. Without ``spans`` it replaces the destination.

    With them only these bytes of the destination change. It then gets the size ``size`` (None: it only grows), and the
    file's attributes if ``own`` or when there was none.
    """

    file: ManifestFile
    destination: str
    spans: tuple[Span, ...] = ()
    size: int | None = None
    own: bool = True


def put_at(file: ManifestFile, destination: str) -> Put:
    """A file as it was backed up, whole or in parts. Errors: BundleError for ranges that do not fit what is stored."""
    if not file.ranges:
        return Put(file, destination)
    return Put(file, destination, tuple(_stored_spans(file)), file.whole_size)


def _stored_spans(file: ManifestFile) -> list[Span]:
    """Where the ranges of a file that was backed up in part lie in what is stored."""
    try:
        ranges = parse_ranges(file.ranges)
    except VssError as error:
        raise BundleError(f"the manifest's ranges of {file.path} are wrong: {error.message}") from error
    ends = list(itertools.accumulate(each.length for each in ranges))
    if ends[-1] != file.size or max(each.end for each in ranges) > file.whole_size:
        raise BundleError(f"the manifest's ranges of {file.path} do not fit its {file.size} stored bytes")
    return [Span(end - each.length, each.offset, each.length) for end, each in zip(ends, ranges, strict=True)]


def directed_spans(file: ManifestFile, source_ranges: str, destination_ranges: str) -> tuple[Span, ...]:
    """Ranges of a file to ranges of another, pair by pair; empty texts mean the whole file to the beginning.

    Errors: E_INVALIDARG when the two do not pair, or when a range was not backed up.
    """
    whole = [Range(0, file.whole_size or file.size)]
    sources = parse_ranges(source_ranges) if source_ranges else whole
    targets = parse_ranges(destination_ranges) if destination_ranges else _from_zero(sources)
    if [each.length for each in sources] != [each.length for each in targets]:
        raise VssError(
            Code.E_INVALIDARG,
            f"the ranges {source_ranges or 'of all'} of {file.path} and {destination_ranges} of its target do not pair",
        )
    stored = _stored_spans(file) if file.ranges else [Span(0, 0, file.size)]
    return tuple(
        span
        for source, target in zip(sources, targets, strict=True)
        for span in _through(file, stored, source, target.offset)
    )


def _from_zero(sources: Sequence[Range]) -> list[Range]:
    ends = itertools.accumulate(each.length for each in sources)
    return [Range(end - each.length, each.length) for end, each in zip(ends, sources, strict=True)]


def _through(file: ManifestFile, stored: list[Span], source: Range, target: int) -> list[Span]:
    """One range of the original file, found in what is stored of it."""
    spans = []
    for each in sorted(stored, key=lambda span: span.target):
        start, end = max(source.offset, each.target), min(source.end, each.target + each.length)
        if start < end:
            spans.append(Span(each.source + start - each.target, target + start - source.offset, end - start))
    if sum(span.length for span in spans) != source.length:
        raise VssError(
            Code.E_INVALIDARG,
            f"its writer wants bytes {source.offset}:{source.length} of {file.path}, which are not in the backup",
        )
    return spans
