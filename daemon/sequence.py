"""The order rules of IVssBackupComponents, pure.

``Sequence.check`` refuses a call that comes at the wrong time with VSS_E_BAD_STATE and says what is missing;
``Sequence.done`` notes that a call has succeeded. What a call does is no business of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute

CallType = type[rp.Call]


@dataclass
class Sequence:
    """What has happened on one connection: at most one session, for backup or for restore."""

    kind: str = ""
    writers: bool = True
    select_components: bool = True
    aborted: str = ""
    failed: bool = False
    components_added: bool = False
    steps: set[CallType] = field(default_factory=set)

    def has(self, *calls: CallType) -> bool:
        """Whether all these calls have succeeded."""
        return all(call in self.steps for call in calls)

    def check(self, call: rp.Call) -> None:
        """Errors: VSS_E_BAD_STATE."""
        if type(call) is rp.ServiceHello:
            _require(not self.has(rp.ServiceHello), "hello may come only once on a connection")
            return
        _require(self.has(rp.ServiceHello), "the first call of a connection must be hello")
        rule = _RULES.get(type(call))
        if rule is not None:
            rule(self, call)

    def done(self, call: rp.Call) -> None:
        """The call has succeeded."""
        self.steps.add(type(call))
        match call:
            case rp.InitializeForBackup():
                self.kind = "backup"
            case rp.InitializeForRestore():
                self.kind = "restore"
            case rp.SetContext():
                self.writers = not call.context & Attribute.NO_WRITERS
            case rp.SetBackupState():
                self.select_components = call.select_components
            case rp.AddComponent():
                self.components_added = True
            case rp.AbortBackup() if not self.has(rp.DoSnapshotSet):
                self.abort("it comes after abort-backup")

    def abort(self, why: str) -> None:
        """The backup is over; the first reason counts."""
        self.aborted = self.aborted or why

    def set_failed(self) -> None:
        """do-snapshot-set has failed: this session makes no further set."""
        self.failed = True


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise VssError(Code.VSS_E_BAD_STATE, sentence)


def _tag(call: rp.Call | CallType) -> str:
    kind = call if isinstance(call, type) else type(call)
    return str(kind.__struct_config__.tag)


def _initialize(state: Sequence, call: rp.Call) -> None:
    _require(not state.kind, f"this connection already carries a {state.kind} session; open a new connection")


def _backup(state: Sequence, call: rp.Call) -> None:
    _require(state.kind == "backup", f"{_tag(call)} needs a backup session; call initialize-for-backup first")
    sentence = f"{_tag(call)} is not possible: {state.aborted}; open a new connection for the next backup"
    _require(not state.aborted, sentence)


def _restore(state: Sequence, call: rp.Call) -> None:
    _require(state.kind == "restore", f"{_tag(call)} needs a restore session; call initialize-for-restore first")


def _session(state: Sequence, call: rp.Call) -> None:
    _status(state, call)
    if state.kind == "backup":
        _backup(state, call)


def _status(state: Sequence, call: rp.Call) -> None:
    _require(bool(state.kind), f"{_tag(call)} needs a session; call initialize-for-backup or -restore first")


def _with_writers(state: Sequence, call: rp.Call) -> None:
    _require(state.writers, f"{_tag(call)} is not possible in a context without writers")


def _after(state: Sequence, call: rp.Call, *needed: CallType) -> None:
    for each in needed:
        _require(state.has(each), f"{_tag(call)} must come after {_tag(each)}")


def _before(state: Sequence, call: rp.Call, *late: CallType) -> None:
    for each in late:
        _require(not state.has(each), f"{_tag(call)} must come before {_tag(each)}")


def _once(state: Sequence, call: rp.Call) -> None:
    _require(not state.has(type(call)), f"{_tag(call)} may come only once in a session")


def _not_failed(state: Sequence, call: rp.Call) -> None:
    _require(not state.failed, f"{_tag(call)} is not possible: do-snapshot-set has failed in this session")


def _set_context(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _once(state, call)
    _before(state, call, rp.StartSnapshotSet)
    if isinstance(call, rp.SetContext) and call.context & Attribute.NO_WRITERS:
        _require(not state.components_added, "a context without writers must be set before add-component")


def _set_backup_state(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _before(state, call, rp.PrepareForBackup)


def _choose_writers(state: Sequence, call: rp.Call) -> None:
    _session(state, call)
    _before(state, call, rp.GatherWriterMetadata)


def _gather(state: Sequence, call: rp.Call) -> None:
    _session(state, call)
    _once(state, call)


def _add_component(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _with_writers(state, call)
    _require(state.select_components, "add-component is not possible: set-backup-state chose a backup by volumes")
    _after(state, call, rp.GatherWriterMetadata)
    _before(state, call, rp.StartSnapshotSet)


def _before_prepare(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _with_writers(state, call)
    _before(state, call, rp.PrepareForBackup)


def _previous_stamp(state: Sequence, call: rp.Call) -> None:
    if state.kind == "restore":
        _before(state, call, rp.PreRestore)
    else:
        _before_prepare(state, call)


def _start_set(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _once(state, call)
    if state.writers:
        _after(state, call, rp.GatherWriterMetadata)


def _add_to_set(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _after(state, call, rp.StartSnapshotSet)
    _not_failed(state, call)
    _before(state, call, rp.DoSnapshotSet)


def _prepare(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _with_writers(state, call)
    _once(state, call)
    _after(state, call, rp.SetBackupState, rp.StartSnapshotSet)


def _do_set(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _once(state, call)
    _not_failed(state, call)
    _after(state, call, rp.StartSnapshotSet)
    if state.writers:
        _after(state, call, rp.PrepareForBackup)


def _set_succeeded(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _with_writers(state, call)
    _after(state, call, rp.DoSnapshotSet)
    _before(state, call, rp.BackupComplete)


def _complete(state: Sequence, call: rp.Call) -> None:
    _backup(state, call)
    _with_writers(state, call)
    _after(state, call, rp.DoSnapshotSet)
    _once(state, call)


def _abort(state: Sequence, call: rp.Call) -> None:
    _require(state.kind == "backup", "abort-backup needs a backup session; call initialize-for-backup first")


def _document(state: Sequence, call: rp.Call) -> None:
    _status(state, call)
    if state.kind == "backup":
        _after(state, call, rp.PrepareForBackup if state.writers else rp.DoSnapshotSet)


def _before_pre_restore(state: Sequence, call: rp.Call) -> None:
    _restore(state, call)
    _before(state, call, rp.PreRestore)


def _about_restore(state: Sequence, call: rp.Call) -> None:
    _restore(state, call)
    _after(state, call, rp.GatherWriterMetadata)
    _before(state, call, rp.PreRestore)


def _pre_restore(state: Sequence, call: rp.Call) -> None:
    _restore(state, call)
    _after(state, call, rp.GatherWriterMetadata)
    _once(state, call)


def _before_post_restore(state: Sequence, call: rp.Call) -> None:
    _restore(state, call)
    _before(state, call, rp.PostRestore)


def _post_restore(state: Sequence, call: rp.Call) -> None:
    _restore(state, call)
    _after(state, call, rp.PreRestore)
    _once(state, call)


_RULES: dict[CallType, Callable[[Sequence, rp.Call], None]] = {
    rp.InitializeForBackup: _initialize,
    rp.InitializeForRestore: _initialize,
    rp.SetContext: _set_context,
    rp.SetBackupState: _set_backup_state,
    rp.SetRestoreState: _before_pre_restore,
    rp.EnableWriterClasses: _choose_writers,
    rp.DisableWriterClasses: _choose_writers,
    rp.DisableWriterInstances: _choose_writers,
    rp.GatherWriterMetadata: _gather,
    rp.AddComponent: _add_component,
    rp.SetBackupOptions: _before_prepare,
    rp.SetPreviousBackupStamp: _previous_stamp,
    rp.SetBackupSucceeded: _set_succeeded,
    rp.SetSelectedForRestore: _about_restore,
    rp.AddRestoreSubcomponent: _about_restore,
    rp.SetRestoreOptions: _about_restore,
    rp.SetSelectedForRestoreEx: _about_restore,
    rp.AddNewTarget: _about_restore,
    rp.SetRangesFilePath: _about_restore,
    rp.SetAuthoritativeRestore: _about_restore,
    rp.SetRestoreName: _about_restore,
    rp.SetRollForward: _about_restore,
    rp.SetAdditionalRestores: _about_restore,
    rp.AddAlternativeLocationMapping: _before_post_restore,
    rp.SetFileRestoreStatus: _before_post_restore,
    rp.StartSnapshotSet: _start_set,
    rp.IsVolumeSupported: _backup,
    rp.AddToSnapshotSet: _add_to_set,
    rp.PrepareForBackup: _prepare,
    rp.GatherWriterStatus: _status,
    rp.DoSnapshotSet: _do_set,
    rp.BackupComplete: _complete,
    rp.AbortBackup: _abort,
    rp.GetDocument: _document,
    rp.SaveAsXml: _document,
    rp.PreRestore: _pre_restore,
    rp.PostRestore: _post_restore,
}
