"""What betest does: a backup or a restore by the engines, in the manner that the options ask for."""

from __future__ import annotations

import os
import shutil
import tempfile

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.engine import BackupJob, BackupReport, Manner
from shadowset.requester.backup.plan import Choice
from shadowset.requester.cli import EXIT_FAILURE, EXIT_OK
from shadowset.requester.cli.backup import report_text as backup_text
from shadowset.requester.cli.output import note, say
from shadowset.requester.cli.restore import report_text as restore_text
from shadowset.requester.cli.watch import TerminalObserver
from shadowset.requester.restore.engine import RestoreJob
from shadowset.requester.restore.wishes import Wishes
from shadowset.requester.sentences import printable
from shadowset.requester.windows.betest.components import read_configuration, read_list
from shadowset.requester.windows.betest.options import Options
from shadowset.vss.codes import Code, VssError
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import Context
from shadowset.vss.selection import Selector


class Work:
    """One run."""

    def __init__(self, options: Options) -> None:
        """Errors: VssError for a list of components that cannot be read."""
        self._options = options
        self._wanted = _wanted(options)

    def run(self) -> int:
        """The exit status. Errors: VssError."""
        options = self._options
        well = True
        if options.snapshot or options.only_complete:
            well = self._without_files()
        if options.copies:
            well = self._backup()
        if options.restores and well:
            well = self._restore()
        return EXIT_OK if well else EXIT_FAILURE

    # ---- backup ----

    def _manner(self) -> Manner:
        options = self._options
        rollback = options.persistent or options.rollback
        return Manner(
            context=Context.APP_ROLLBACK if rollback else Context.BACKUP,
            bootable_system_state=options.bootable,
            complete=not (options.no_complete or options.snapshot),
            copying=options.copies,
            previous_document=_read_text(options.previous) if options.previous else "",
            without_base=True,
            stop_at_error=options.stop_at_error,
        )

    def _backup(self) -> bool:
        report = self._make(self._options.directory)
        if self._options.document:
            shutil.copyfile(f"{report.target}/{bundle.COMPONENTS_DOCUMENT}", self._options.document)
            self._tell(f"the backup components document is in {self._options.document}")
        say(backup_text(report))
        return report.succeeded

    def _without_files(self) -> bool:
        """The shadow copies alone; nothing stays of the directory that the engine needs."""
        with tempfile.TemporaryDirectory(prefix="shadowset-betest-") as place:
            report = self._make(f"{place}/backup")
            if self._options.document:
                shutil.copyfile(f"{report.target}/{bundle.COMPONENTS_DOCUMENT}", self._options.document)
        for component in report.components:
            result = "is in the shadow copies" if component.succeeded else f"FAILED: {component.reason}"
            say(printable(f"{component.writer}: {component.full_path} {result}"))
        say(f"set {report.set_id}, volumes {', '.join(report.volumes) or 'none'}")
        return report.succeeded

    def _make(self, directory: str) -> BackupReport:
        choice = Choice(self._options.backup_type, self._wanted)
        report = BackupJob(directory, choice, observer=TerminalObserver(), manner=self._manner(), wait=600).run()
        for component in report.components:
            self._tell(f"{component.writer} ({component.writer_id}): {component.full_path}, {component.files} files")
        return report

    # ---- restore ----

    def _restore(self) -> bool:
        options = self._options
        document = _read_text(options.document) if options.document else ""
        if document:
            _require_same(document, options)
        job = RestoreJob(
            options.directory,
            wanted=self._wanted,
            observer=TerminalObserver(),
            wishes=Wishes(all_authoritative=options.authoritative),
            document=document,
        )
        report = job.run()
        say(restore_text(report))
        if report.reboot_required:
            note("betest: restart the host to finish the restore")
        return report.succeeded

    def _tell(self, text: str) -> None:
        if self._options.verbose:
            say(printable(text))


def _wanted(options: Options) -> tuple[Selector, ...] | None:
    if options.configuration:
        with open(options.configuration, "rb") as file:
            return read_configuration(file.read(), options.configuration)
    if options.old_list:
        return read_list(_read_text(options.old_list), options.old_list)
    return None


def _read_text(path: str) -> str:
    """Errors: VSS_E_OBJECT_NOT_FOUND."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError as error:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND, f"{path} cannot be read: {error.strerror}; name a file that betest wrote"
        ) from error


def _require_same(document: str, options: Options) -> None:
    """Errors: E_INVALIDARG when document and directory are of different backups."""
    set_id = components_from_xml(document).snapshot_set_id
    there = bundle.load(os.path.abspath(options.directory)).set_id
    if set_id != there:
        raise VssError(
            Code.E_INVALIDARG,
            f"{options.document} is of the set {set_id}, and the backup in {options.directory} of {there}; "
            "name two that belong together",
        )
