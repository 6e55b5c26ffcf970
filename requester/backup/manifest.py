"""The manifest of a backup: what was copied, from where, with which digests.

Written last and renamed into place, so a directory with a manifest is a finished backup. The file holds the digest of
its own contents: ``{"format": 2, "sha256": …, "backup": {…}}``, computed over the canonical JSON of ``backup`` (sorted
keys, no spaces). File names that are not UTF-8 keep their bytes as lone surrogates.

Format 1 had whole backups only, and files without the instance of their writer; it is still read.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import msgspec

from shadowset.requester.backup.copy import Attributes, OnBytes, digest_file, writing
from shadowset.requester.backup.mounts import is_below
from shadowset.vss.codes import Code, VssError
from shadowset.vss.metadata import ExcludedFiles

FORMAT = 2
FORMATS = (1, 2)
NAME = "manifest.json"
FILES = "files"
COMPONENTS_DOCUMENT = "BackupComponents.xml"

REGULAR, DIRECTORY, SYMLINK, PARENT = "file", "directory", "symlink", "parent"
UNCHANGED, RANGES_FILE = "unchanged", "ranges-file"
STORED = (REGULAR, RANGES_FILE)
FILE_KINDS = (REGULAR, UNCHANGED)


ComponentId = tuple[str, str, str]
"""Class id, instance id and full path of an explicitly included component."""


class BundleError(VssError):
    """The backup is not complete, or not what was once written."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.VSS_E_CORRUPT_XML_DOCUMENT, message)


class ManifestFile(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One file, directory or symbolic link of a component.

    ``path`` is where it belongs, ``stored`` where it lies in the backup. ``parent`` entries are directories above a
    file set: only made again where they are missing. ``unchanged`` is a file whose contents an earlier backup of the
    chain holds, ``ranges-file`` one that the restore hands to the writer. ``component`` and ``member`` are full logical
    paths: of the explicitly included component, and of the one in its set that named the file, when another.

    ``ranges`` (``offset:length,…``) says that only these bytes are stored, one behind the other, of a file of
    ``whole_size`` bytes; ``size`` and ``sha256`` are always those of what is stored.
    """

    writer_id: str
    instance_id: str = ""
    component: str
    member: str = ""
    path: str
    kind: str
    attributes: Attributes
    stored: str = ""
    size: int = 0
    sha256: str = ""
    link: str = ""
    ranges: str = ""
    whole_size: int = 0


class ManifestComponent(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One explicitly included component and how its backup went; ``reason`` says why it failed.

    Not ``whole`` builds on the base backup; ``gone`` are files that the base has and that were there no more. ``why``
    is a sentence where a backup that builds on another one took the component whole.
    """

    writer_id: str
    instance_id: str
    writer: str
    type: str
    logical_path: str
    name: str
    succeeded: bool
    reason: str = ""
    files: int = 0
    bytes: int = 0
    instance_name: str = ""
    whole: bool = True
    why: str = ""
    gone: list[str] = []

    @property
    def full_path(self) -> str:
        """Logical path and name joined."""
        return f"{self.logical_path}\\{self.name}" if self.logical_path else self.name

    @property
    def key(self) -> ComponentId:
        """What the component's files are found by."""
        return self.writer_id, self.instance_id, self.full_path


class ManifestDocument(msgspec.Struct, kw_only=True):
    """One of the saved documents; ``writer_id`` is empty for the backup components document."""

    path: str
    sha256: str
    writer_id: str = ""
    instance_id: str = ""


class ManifestVolume(msgspec.Struct, kw_only=True):
    """A volume of the set and its shadow copy."""

    name: str
    snapshot_id: str
    mount_points: list[str]


class ManifestBase(msgspec.Struct, kw_only=True):
    """The backup that this one builds on; ``directory`` is relative to this one's, ``sha256`` its manifest's digest."""

    set_id: str
    backup_type: str
    directory: str
    sha256: str


class Manifest(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The whole record; ``created`` is ISO 8601 in UTC, ``excluded`` what the host's list left out."""

    version: str
    created: str
    host: str
    set_id: str
    backup_type: str
    skew_ms: float = 0.0
    base: ManifestBase | None = None
    volumes: list[ManifestVolume] = []
    documents: list[ManifestDocument] = []
    components: list[ManifestComponent] = []
    dropped: list[str] = []
    skipped: list[str] = []
    excluded: list[ExcludedFiles] = []
    files: list[ManifestFile] = []

    def files_by_component(self) -> dict[ComponentId, list[ManifestFile]]:
        """The files of each component."""
        found: dict[ComponentId, list[ManifestFile]] = {}
        for file in self.files:
            found.setdefault((file.writer_id, file.instance_id, file.component), []).append(file)
        return found

    @property
    def total_bytes(self) -> int:
        """Bytes of all regular files."""
        return sum(file.size for file in self.files)


def digest_text(text: str) -> str:
    """SHA-256 of a document as it is stored."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")


def write_atomically(path: str, data: bytes) -> None:
    """Write a file whole: beside, synced, renamed, directory synced. Errors: TargetError."""
    beside = f"{path}.new"
    with writing(path):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(beside, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def save(bundle: str, manifest: Manifest) -> None:
    """Write the manifest into the directory ``bundle``; the backup is finished by that. Errors: TargetError."""
    body = _canonical(msgspec.to_builtins(manifest))
    head = f'{{"format":{FORMAT},"sha256":"{hashlib.sha256(body).hexdigest()}",\n"backup":'
    write_atomically(f"{bundle}/{NAME}", head.encode("ascii") + body + b"}\n")


def load(bundle: str) -> Manifest:
    """Read the manifest of the directory ``bundle`` and check it against its own digest. Errors: BundleError."""
    return load_with_digest(bundle)[0]


def load_with_digest(bundle: str) -> tuple[Manifest, str]:
    """As ``load``; the digest is what a backup that builds on this one remembers of it."""
    path = f"{bundle}/{NAME}"
    whole = _parse(path)
    if not isinstance(whole, dict) or "backup" not in whole or not isinstance(whole.get("sha256"), str):
        raise BundleError(f"{path} is not the manifest of a backup; name the directory that 'shadowset backup' wrote")
    if whole.get("format") not in FORMATS:
        raise BundleError(f"{path} has format {whole.get('format')!r}, this version reads {FORMATS}; use a newer one")
    if hashlib.sha256(_canonical(whole["backup"])).hexdigest() != whole["sha256"]:
        raise BundleError(f"{path} was altered after it was written (its digest differs); use another backup")
    try:
        manifest = msgspec.convert(whole["backup"], Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{path} is not a manifest of this format: {error}; use another backup") from error
    instances = {(one.writer_id, one.full_path): one.instance_id for one in manifest.components}
    for file in manifest.files:
        _require_places(path, file)
        file.instance_id = file.instance_id or instances.get((file.writer_id, file.component), "")
    return manifest, whole["sha256"]


def _parse(path: str) -> Any:
    try:
        with open(path, encoding="ascii") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise BundleError(
            f"{path} is missing: this is no backup, or one that was not finished; name another directory"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged or cut short ({error}); use another backup") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; see to it and start again") from error


def _require_places(manifest: str, file: ManifestFile) -> None:
    """A manifest may come from anywhere: no path in it may lead out of the backup or be written in an odd way."""
    stored_well = not file.stored or _is_plain(f"/{file.stored}", f"/{FILES}")
    if not _is_plain(file.path, "/") or not stored_well or (file.kind in STORED) != bool(file.stored):
        raise BundleError(f"{manifest} names an impossible place for {file.path!r}; use another backup")


def _is_plain(path: str, below: str) -> bool:
    return path.startswith("/") and "\0" not in path and os.path.normpath(path) == path and is_below(path, below)


def verify_documents(bundle: str, manifest: Manifest) -> dict[str, str]:
    """The text of all documents by their names, each checked against its digest. Errors: BundleError."""
    texts = {}
    for document in manifest.documents:
        path = f"{bundle}/{document.path}"
        if "/" in document.path or document.path in ("", ".", ".."):
            raise BundleError(f"the manifest names an impossible document {document.path!r}; use another backup")
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                text = file.read()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}; use another backup") from error
        if digest_text(text) != document.sha256:
            raise BundleError(f"{path} was altered after it was written (its digest differs); use another backup")
        texts[document.path] = text
    if COMPONENTS_DOCUMENT not in texts:
        raise BundleError(f"{bundle} holds no {COMPONENTS_DOCUMENT}; use another backup")
    return texts


def verify_files(bundle: str, files: list[ManifestFile], on_bytes: OnBytes) -> None:
    """Read all stored files and check size and digest. Errors: BundleError for the first that is missing or differs."""
    root = os.path.realpath(bundle)
    for file in files:
        if file.kind in STORED:
            _verify_file(root, file, on_bytes)


def _verify_file(root: str, file: ManifestFile, on_bytes: OnBytes) -> None:
    path = f"{root}/{file.stored}"
    if os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
        raise BundleError(f"{path} lies behind a symbolic link, which no backup holds; use another backup")
    try:
        size, digest = digest_file(path, on_bytes)
    except OSError as error:
        raise BundleError(f"{path} is missing or unreadable: {error.strerror}; use another backup") from error
    if (size, digest) != (file.size, file.sha256):
        why = "its digest differs" if size == file.size else f"{size} bytes, {file.size} expected"
        raise BundleError(f"{path} was altered after the backup ({why}); use another backup")
