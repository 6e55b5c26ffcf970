"""The options of betest: names without case, after ``/`` or ``-``, values in an argument of their own. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shadowset.requester.cli import UsageError
from shadowset.vss.enums import BackupType

USAGE = """\
Back up and restore the components of writers, to see how the writers do.

Without /B, /R, /Snapshot and /BC a backup is made and restored at once.

  /B              back up, restore nothing
  /R              restore, back up nothing; needs /S
  /Snapshot       make the shadow copies, and no more
  /BC             make the shadow copies and report the backup complete, without copying files
  /NBC            leave out backup complete
  /S file         the backup components document: written by a backup, read by a restore
  /D path         the directory of the backup: new or empty for a backup
  /X file         the writers and components meant, as XML: <BETest><Writer writerid=…><Component componentName=…/>
  /C file         the same as lines "writer id" : "component", "component";
  /T type         FULL (default), LOG, COPY, INCREMENTAL or DIFFERENTIAL
  /Pre file       the document of the backup that an incremental or differential one builds on
  /O              the backup has the bootable system state
  /P, /Rollback   persistent shadow copies; for rolling an application back
  /Auth           restore authoritatively
  /StopError      stop at the first failure of a writer
  /V              tell more

The files go where the writers' components say; a volume of the set cannot hold /D.

examples:
  betest /B /S backup.xml /D /var/backups/test /X components.xml
  betest /R /S backup.xml /D /var/backups/test /X components.xml"""

FLAGS = {
    "b": "backup",
    "r": "restore",
    "snapshot": "snapshot",
    "bc": "only_complete",
    "nbc": "no_complete",
    "o": "bootable",
    "p": "persistent",
    "rollback": "rollback",
    "auth": "authoritative",
    "stoperror": "stop_at_error",
    "v": "verbose",
}
VALUES = {"s": "document", "d": "directory", "x": "configuration", "c": "old_list", "t": "type", "pre": "previous"}
TYPES = {
    kind.name: kind
    for kind in (
        BackupType.FULL, BackupType.LOG, BackupType.COPY, BackupType.INCREMENTAL, BackupType.DIFFERENTIAL,
    )
}  # fmt: skip


@dataclass
class Options:
    """What was asked for; paths are empty when not given."""

    backup: bool = False
    restore: bool = False
    snapshot: bool = False
    only_complete: bool = False
    no_complete: bool = False
    bootable: bool = False
    persistent: bool = False
    rollback: bool = False
    authoritative: bool = False
    stop_at_error: bool = False
    verbose: bool = False
    document: str = ""
    directory: str = ""
    configuration: str = ""
    old_list: str = ""
    type: str = "FULL"
    previous: str = ""

    @property
    def backup_type(self) -> BackupType:
        """What kind of backup to make."""
        return TYPES[self.type]

    @property
    def copies(self) -> bool:
        """Whether files are backed up."""
        return self.backup or not (self.restore or self.snapshot or self.only_complete)

    @property
    def restores(self) -> bool:
        """Whether files are restored."""
        return self.restore or not (self.backup or self.snapshot or self.only_complete)


def parse_options(arguments: Sequence[str]) -> Options:
    """Errors: UsageError."""
    options = Options()
    given = list(arguments)
    while given:
        word = given.pop(0)
        name = word[1:].lower()
        if word[:1] not in ("/", "-") or name not in FLAGS.keys() | VALUES.keys():
            raise UsageError(f"there is no option {word!r}; betest /? names them all")
        if name in FLAGS:
            setattr(options, FLAGS[name], True)
        elif not given:
            raise UsageError(f"the option {word} needs a value")
        else:
            setattr(options, VALUES[name], given.pop(0))
    options.type = options.type.upper()
    _check(options)
    return options


def _check(options: Options) -> None:
    if options.type not in TYPES:
        raise UsageError(f"{options.type!r} is no backup type; /T takes {', '.join(TYPES)}")
    modes = [options.backup, options.restore, options.snapshot, options.only_complete]
    if sum(modes) > 1 or (options.only_complete and options.no_complete):
        raise UsageError("/B, /R, /Snapshot and /BC exclude each other, and so do /BC and /NBC")
    if options.configuration and options.old_list:
        raise UsageError("/X and /C say the same; give one of them")
    if options.restore and not options.document:
        raise UsageError("/R needs the document of the backup: /S file")
    if (options.copies or options.restores) and not options.directory:
        raise UsageError("name the directory of the backup: /D path")
