"""``shadowset documents …``: look at, check, convert and bundle the documents of a backup."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, Run, add_command, add_json

if TYPE_CHECKING:
    from shadowset.vss.documents.bundle import Bundle
    from shadowset.vss.documents.twin import Document

MAX_FILE = 32 * 1024 * 1024
MAX_KEY = 4096


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    group = add_command(
        commands,
        "documents",
        None,
        "check, show, convert and bundle the documents of a backup",
        "Check, show, convert and bundle writer metadata documents and backup components documents. All of it works\n"
        "on files, without a coordinator. A document is XML or its JSON twin.",
        "shadowset documents lint BCDocument.xml WM0.xml\nshadowset documents bundle monday.zip BCDocument.xml WM0.xml",
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    lint = add_command(
        actions,
        "lint",
        run_lint,
        "tell every fault of documents",
        "Tell every fault of documents, one sentence each. The exit status is 1 when there is one.",
        "shadowset documents lint WM0.xml",
    )
    lint.add_argument("files", metavar="FILE", nargs="+", help="a document")
    add_json(lint)
    _register_one(actions, "show", run_show, "show a document in words", "Show what a document says, in words.")
    _register_one(
        actions,
        "json",
        run_json,
        "print a document as JSON",
        "Print a document's JSON twin: the same contents, enumerations as numbers, binary data as base64.",
    )
    _register_one(
        actions, "xml", run_xml, "print a document as XML", "Print a document as XML, also from its JSON twin."
    )
    add_command(
        actions,
        "schema",
        run_schema,
        "print the JSON Schema of the JSON twins",
        "Print the JSON Schema of the JSON twins.",
        "shadowset documents schema",
    )
    _register_bundles(actions)


def _register_one(actions: Commands, name: str, run: Run, summary: str, description: str) -> None:
    command = add_command(actions, name, run, summary, description, f"shadowset documents {name} BCDocument.xml")
    command.add_argument("file", metavar="FILE", help="a document")


def _register_bundles(actions: Commands) -> None:
    bundle = add_command(
        actions,
        "bundle",
        run_bundle,
        "put documents into one archive with digests",
        "Put documents into one ZIP archive with a manifest of their SHA-256 digests; with a key the manifest is\n"
        "signed (HMAC-SHA-256).",
        "shadowset documents bundle monday.zip BCDocument.xml WM0.xml WM1.xml --key /etc/backup.key",
    )
    bundle.add_argument("out", metavar="OUT", help="the new archive; it must not be there yet")
    bundle.add_argument("files", metavar="FILE", nargs="+", help="a document")
    verify = add_command(
        actions,
        "verify",
        run_verify,
        "check an archive of documents",
        "Check an archive of documents: nothing damaged, nothing missing, nothing added, and with a key signed by it.",
        "shadowset documents verify monday.zip --key /etc/backup.key",
    )
    verify.add_argument("bundle", metavar="BUNDLE", help="the archive")
    for command in (bundle, verify):
        command.add_argument("--key", metavar="FILE", help="a file with the secret key, of at least 16 random bytes")
        add_json(command)


def _read(path: str, limit: int = MAX_FILE) -> bytes:
    """A whole file. Errors: OSError; VssError when it is longer than the limit."""
    from shadowset.vss.codes import Code, VssError

    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise VssError(Code.E_INVALIDARG, f"{path} is longer than {limit} bytes, too long for what it should be")
    return data


def _read_document(path: str) -> bytes:
    """What should be a document. Errors: as ``_read``; E_INVALIDARG for a bundle."""
    from shadowset.vss.codes import Code, VssError

    data = _read(path)
    if data.startswith(b"PK"):
        raise VssError(Code.E_INVALIDARG, f"{path} is a bundle of documents; use shadowset documents verify")
    return data


def _document(path: str) -> Document:
    from shadowset.vss.codes import VssError
    from shadowset.vss.documents.twin import read_document

    data = _read_document(path)
    try:
        return read_document(data)
    except VssError as error:
        raise VssError(error.code, f"{path}: {error.message}") from error


def run_lint(options: argparse.Namespace) -> int:
    """Tell the faults of documents."""
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.sentences import printable
    from shadowset.vss.documents.twin import lint

    found = [(path, lint(_read_document(path))) for path in options.files]
    if options.json:
        emit_json([{"file": path, "faults": faults} for path, faults in found])
    else:
        for path, faults in found:
            for sentence in faults or ["no fault"]:
                say(printable(f"{path}: {sentence}"))
    return 1 if any(faults for _, faults in found) else 0


def run_show(options: argparse.Namespace) -> int:
    """Show a document in words."""
    from shadowset.requester.cli.document_text import document_text
    from shadowset.requester.cli.output import say

    say(document_text(_document(options.file)))
    return 0


def run_json(options: argparse.Namespace) -> int:
    """Print a document as JSON."""
    return _print(options.file, "json")


def run_xml(options: argparse.Namespace) -> int:
    """Print a document as XML."""
    return _print(options.file, "xml")


def _print(path: str, form: str) -> int:
    import sys

    from shadowset.vss.documents.twin import document_to_json, document_to_xml

    document = _document(path)
    text = document_to_json(document) if form == "json" else document_to_xml(document)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    return 0


def run_schema(options: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    import sys

    from shadowset.vss.documents.twin import schema_text

    sys.stdout.write(schema_text())
    return 0


def run_bundle(options: argparse.Namespace) -> int:
    """Make a bundle."""
    from shadowset.vss.documents.bundle import make_bundle, open_bundle

    key = _key(options)
    data = make_bundle([(os.path.basename(path), _read(path)) for path in options.files], key)
    _write_new(options.out, data)
    return _tell(options, options.out, open_bundle(data, key))


def run_verify(options: argparse.Namespace) -> int:
    """Check a bundle."""
    from shadowset.vss.documents.bundle import MAX_BUNDLE, open_bundle

    return _tell(options, options.bundle, open_bundle(_read(options.bundle, MAX_BUNDLE), _key(options)))


def _key(options: argparse.Namespace) -> bytes:
    from shadowset.vss.codes import Code, VssError

    if not options.key:
        return b""
    key = _read(options.key, MAX_KEY)
    if not key:
        raise VssError(Code.E_INVALIDARG, f"the key file {options.key} is empty; fill it with random bytes")
    return key


def _write_new(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise


def _tell(options: argparse.Namespace, path: str, bundle: Bundle) -> int:
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.sentences import printable, table

    checked = bool(bundle.signed and options.key)
    if options.json:
        entries = [member.entry for member in bundle.members]
        emit_json({"bundle": path, "signed": bundle.signed, "signature_checked": checked, "documents": entries})
        return 0
    rows = [
        [entry.name, entry.source, str(entry.size), entry.sha256] for entry in (each.entry for each in bundle.members)
    ]
    say(table(["MEMBER", "FILE", "BYTES", "SHA-256"], rows, right=(2,)))
    signature = "signed with this key" if checked else "signed, give --key to check" if bundle.signed else "not signed"
    say(printable(f"{path}: {len(rows)} documents, all as the manifest describes them; {signature}"))
    return 0
