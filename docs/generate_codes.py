"""Write docs/codes.md from the codes that there are; with --check only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from shadowset.requester.retry import retryable
from shadowset.vss.codes import Code

PAGE = Path(__file__).with_name("codes.md")

HEAD = """\
# Codes

Every error is a sentence with a code behind it, `… [VSS_E_BAD_STATE (0x80042301)]`. The sentence names the object,
the cause and the next step; the code is for programs, and has VSS's own name and number. Programs in other languages
find the number in `failure.code` of every answer. Codes that are marked *again* may pass by themselves: `--tries` and
jobs try again after them.

| code | number | here it means | what to do |
|---|---|---|---|
"""

TAIL = """
## Numbers that are known and not given

They belong to things that Shadowset does not have (clusters, dynamic disks, remote machines, hidden volumes), or are
given by providers of others, and are named where they come from elsewhere:

{names}.
"""

NOTE, WAIT = "nothing: it is no error", "wait, or ask again"
MEANING: dict[Code, tuple[str, str]] = {
    Code.S_OK: ("it is done", NOTE),
    Code.VSS_S_ASYNC_PENDING: ("the operation is under way", WAIT),
    Code.VSS_S_ASYNC_FINISHED: ("the operation has ended", NOTE),
    Code.VSS_S_ASYNC_CANCELLED: ("the operation was cancelled, by the requester or since it went away", "start again"),
    Code.E_UNEXPECTED: ("a writer or provider did something that no message provides for", "see its log"),
    Code.E_ACCESSDENIED: ("this user or program may not do that", "run it as root, or add a rule in access.d"),
    Code.E_OUTOFMEMORY: ("there is too little memory", "free some; see shadowset doctor"),
    Code.E_INVALIDARG: ("an argument, a file or a setting is wrong", "mend what the sentence names"),
    Code.VSS_E_BAD_STATE: (
        "a call came at the wrong time, or the object is not in the state for it",
        "do first what is missing",
    ),
    Code.VSS_E_UNEXPECTED: (
        "something failed that should not: a disk, a file, a process",
        "see the sentence, then the log",
    ),
    Code.VSS_E_PROVIDER_ALREADY_REGISTERED: ("a provider of this id is there already", "remove one of them"),
    Code.VSS_E_PROVIDER_NOT_REGISTERED: ("there is no such provider", "see shadowset providers"),
    Code.VSS_E_PROVIDER_VETO: ("the provider refused the set", "see the sentence"),
    Code.VSS_E_PROVIDER_IN_USE: ("the provider is busy with another call on this volume", "try again after it"),
    Code.VSS_E_OBJECT_NOT_FOUND: ("there is no such volume, copy, set, backup, job or file", "list what there is"),
    Code.VSS_E_VOLUME_NOT_SUPPORTED: ("this volume cannot be cut, or not now", "see the sentence: attach or start it"),
    Code.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER: ("the provider named cannot cut this volume", "name another, or none"),
    Code.VSS_E_OBJECT_ALREADY_EXISTS: ("one of this name is there already", "choose another name"),
    Code.VSS_E_UNEXPECTED_PROVIDER_ERROR: (
        "a volume's provider failed, or went away",
        "shadowset volume list, then its log",
    ),
    Code.VSS_E_CORRUPT_XML_DOCUMENT: ("a document or backup is damaged, or was altered", "use another one"),
    Code.VSS_E_INVALID_XML_DOCUMENT: ("a document is well-formed, and against the rules", "shadowset documents lint"),
    Code.VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED: (
        "the set has as many volumes as may be",
        "make two sets, or raise the limit",
    ),
    Code.VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED: ("the volume has as many copies as may be", "delete some"),
    Code.VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED: ("there are as many shadow storages as may be", "remove one"),
    Code.VSS_E_FLUSH_WRITES_TIMEOUT: (
        "a file system took too long to be written out or frozen",
        "when the host is less busy",
    ),
    Code.VSS_E_HOLD_WRITES_TIMEOUT: (
        "writes could not be held, or were held too long for one instant",
        "when it is less busy",
    ),
    Code.VSS_E_UNEXPECTED_WRITER_ERROR: ("a writer failed without saying how", "see its log"),
    Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS: ("another set, or another run of the job, is being made", "--wait, or later"),
    Code.VSS_E_WRITER_INFRASTRUCTURE: ("no coordinator answers", "start shadowsetd"),
    Code.VSS_E_WRITER_NOT_RESPONDING: (
        "a writer closed its connection, or never answered",
        "shadowset writers; start it again",
    ),
    Code.VSS_E_WRITER_ALREADY_SUBSCRIBED: ("this instance of a writer is connected already", "stop the other process"),
    Code.VSS_E_UNSUPPORTED_CONTEXT: (
        "the context has attributes that do not go together, or not here",
        "choose another",
    ),
    Code.VSS_E_VOLUME_IN_USE: ("the volume, copy or place is in use", "end what the sentence names"),
    Code.VSS_E_INSUFFICIENT_STORAGE: (
        "there is no room in shadow storage or target",
        "free some; shadowset storage set",
    ),
    Code.VSS_E_REVERT_IN_PROGRESS: ("the volume is being taken back to a copy", "shadowset revert --status"),
    Code.VSS_E_REVERT_VOLUME_LOST: (
        "a revert was under way when its volume went away",
        "bring it back: the revert goes on",
    ),
    Code.VSS_E_UNSELECTED_VOLUME: ("a component lies on a volume that is not in the set", "add the volume"),
    Code.VSS_E_NESTED_VOLUME_LIMIT: ("volumes lie on volumes, deeper than may be", "cut the outer ones separately"),
    Code.VSS_E_NOT_SUPPORTED: ("this cannot be done with this object", "see the sentence for another way"),
    Code.VSS_E_WRITERERROR_PARTIAL_FAILURE: ("a writer failed for some of its components", "see the components"),
    Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT: (
        "not all of the writer's files are in the set",
        "add the volumes that it names",
    ),
    Code.VSS_E_WRITERERROR_OUTOFRESOURCES: ("a writer had too little of something", "see its sentence"),
    Code.VSS_E_WRITERERROR_TIMEOUT: (
        "a writer took longer than its window",
        "shadowset writers window, or when it is less busy",
    ),
    Code.VSS_E_WRITERERROR_RETRYABLE: (
        "a writer failed, and may succeed the next time",
        "try again; its sentence says why",
    ),
    Code.VSS_E_WRITERERROR_NONRETRYABLE: ("a writer failed, and will again", "mend what its sentence names"),
    Code.VSS_E_WRITERERROR_RECOVERY_FAILED: ("a writer could not bring its files into order", "see its sentence"),
    Code.VSS_E_WRITER_STATUS_NOT_AVAILABLE: ("a writer did not tell its state in time", "shadowset writers"),
    Code.VSS_E_BREAK_REVERT_ID_FAILED: (
        "a broken copy could not get an identity of its own",
        "mend the target, and again",
    ),
    Code.VSS_E_CANNOT_REVERT_DISKID: (
        "the original identity cannot be kept, since it is in use",
        "leave out --keep-uuid",
    ),
    Code.VSS_E_AUTORECOVERY_FAILED: (
        "a writer's changes in the fresh copy failed",
        "see the sentence; the copy is as cut",
    ),
}


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{code.name}`{' *again*' if retryable(code) else ''} | `0x{code:08X}` | {meaning} | {step} |"
        for code, (meaning, step) in sorted(MEANING.items())
    ]
    others = ", ".join(f"`{code.name}` (0x{code:08X})" for code in sorted(Code) if code not in MEANING)
    return HEAD + "\n".join(rows) + "\n" + TAIL.format(names=others)


def main(arguments: list[str]) -> int:
    """Exit status 1 when the page is not up to date."""
    if "--check" in arguments:
        return int(not PAGE.exists() or PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
