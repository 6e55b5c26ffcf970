"""A document bundle: the documents of one backup in one ZIP archive with their digests, signed where there is a key.

Members: ``BCDocument.xml`` (at most one), ``WM0.xml``, ``WM1.xml`` …, ``Manifest.json`` with the SHA-256 of each, and
with a key ``Manifest.hmac``, the HMAC-SHA-256 of the manifest in hexadecimal. Digests alone show damage; against
somebody who can write both a document and the manifest only the key helps. Members are stored without compression, so
that a bundle is never larger in memory than on disk.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import struct
import zipfile
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.documents.twin import Document, document_to_xml, is_json, read_document

MANIFEST, SIGNATURE = "Manifest.json", "Manifest.hmac"
BACKUP_COMPONENTS = "BCDocument.xml"
MAX_DOCUMENTS = 1000
MAX_BUNDLE = 256 * 1024 * 1024
MIN_KEY = 16
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, KeyError, struct.error)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One document in the manifest; ``source`` is what its file was called."""

    name: str
    source: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The list of documents; ``version`` is that of this layout."""

    version: int
    documents: tuple[Entry, ...]


class Member(NamedTuple):
    """A document of a bundle that was verified."""

    entry: Entry
    data: bytes
    document: Document


class Bundle(NamedTuple):
    """What a bundle holds; ``signed`` says that there is a signature, which was checked if a key was given."""

    members: list[Member]
    signed: bool


def make_bundle(documents: Sequence[tuple[str, bytes]], key: bytes = b"") -> bytes:
    """Documents, each with the name of its file, as a bundle; the same documents always give the same bytes.

    Errors: VSS_E_CORRUPT_XML_DOCUMENT, VSS_E_INVALID_XML_DOCUMENT naming the file; E_INVALIDARG.
    """
    _require_key(key)
    if not 0 < len(documents) <= MAX_DOCUMENTS:
        raise VssError(Code.E_INVALIDARG, f"a bundle holds 1 to {MAX_DOCUMENTS} documents, not {len(documents)}")
    parts: dict[str, bytes] = {}
    entries = []
    for source, given in documents:
        name, data = _member_of(source, given, parts)
        parts[name] = data
        entries.append(Entry(name, source, len(data), hashlib.sha256(data).hexdigest()))
    manifest = msgspec.json.format(msgspec.json.encode(Manifest(1, tuple(entries))), indent=2)
    parts[MANIFEST] = manifest
    if key:
        parts[SIGNATURE] = _signature(manifest, key)
    bundle = _archive(parts)
    if len(bundle) > MAX_BUNDLE:
        raise VssError(Code.E_INVALIDARG, f"the bundle would have {len(bundle)} bytes, over the limit of {MAX_BUNDLE}")
    return bundle


def open_bundle(data: bytes, key: bytes = b"") -> Bundle:
    """The documents of a bundle in the order in which they were put in, all verified.

    Errors: VSS_E_CORRUPT_XML_DOCUMENT for a bundle that is damaged, was tampered with, lacks a member, has one too
    many, or has no good signature although a key is given.
    """
    _require_key(key)
    parts = _parts(data)
    manifest_data = parts.pop(MANIFEST, None)
    if manifest_data is None:
        _refuse(f"it has no {MANIFEST}")
    signature = parts.pop(SIGNATURE, b"")
    if key and not signature:
        _refuse("it is not signed, and a key was given to check the signature with")
    if key and not hmac.compare_digest(signature, _signature(manifest_data, key)):
        _refuse("its signature was not made with this key over this manifest")
    manifest = _manifest(manifest_data)
    names = [entry.name for entry in manifest.documents]
    for name in sorted(parts.keys() - set(names)):
        _refuse(f"{name[:80]!r} is in it and not in the manifest")
    return Bundle([_member(entry, parts) for entry in manifest.documents], bool(signature))


def _member_of(source: str, data: bytes, taken: dict[str, bytes]) -> tuple[str, bytes]:
    try:
        document = read_document(data)
    except VssError as error:
        raise VssError(error.code, f"{source}: {error.message}") from error
    if is_json(data):
        data = document_to_xml(document).encode()
    if not isinstance(document, BackupComponentsDocument):
        return f"WM{sum(name != BACKUP_COMPONENTS for name in taken)}.xml", data
    if BACKUP_COMPONENTS in taken:
        raise VssError(
            Code.E_INVALIDARG, f"{source} is a second backup components document; make one bundle for each backup"
        )
    return BACKUP_COMPONENTS, data


def _require_key(key: bytes) -> None:
    if key and len(key) < MIN_KEY:
        raise VssError(Code.E_INVALIDARG, f"the key has {len(key)} bytes; use at least {MIN_KEY} random ones")


def _signature(manifest: bytes, key: bytes) -> bytes:
    return hmac.new(key, manifest, hashlib.sha256).hexdigest().encode()


def _archive(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), data)
    return out.getvalue()


def _refuse(why: str) -> NoReturn:
    raise VssError(
        Code.VSS_E_CORRUPT_XML_DOCUMENT, f"the document bundle is refused: {why}; take another copy of the bundle"
    )


def _parts(data: bytes) -> dict[str, bytes]:
    if len(data) > MAX_BUNDLE:
        _refuse(f"it is larger than {MAX_BUNDLE} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_members(infos, len(data))
            return {info.filename: archive.read(info) for info in infos}
    except _BROKEN as error:
        _refuse(f"it is truncated or damaged ({error})")


def _check_members(infos: list[zipfile.ZipInfo], size: int) -> None:
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        _refuse("two of its members have the same name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        _refuse("a member is compressed, which bundles never are")
    if sum(info.file_size for info in infos) > size:
        _refuse("its members are larger than itself")


def _manifest(data: bytes) -> Manifest:
    try:
        manifest: Manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        _refuse(f"its manifest cannot be read ({error})")
    names = [entry.name for entry in manifest.documents]
    if manifest.version != 1 or len(set(names)) != len(names):
        _refuse("its manifest is of another version or names a document twice")
    return manifest


def _member(entry: Entry, parts: dict[str, bytes]) -> Member:
    data = parts.get(entry.name)
    if data is None:
        _refuse(f"{entry.name[:80]!r} is in the manifest and not in it")
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        _refuse(f"{entry.name[:80]!r} is not the document that the manifest describes")
    return Member(entry, data, read_document(data))
