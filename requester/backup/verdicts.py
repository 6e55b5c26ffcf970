"""What failed in a backup, and why: writers by their status, components by their document, files by the engine."""

from __future__ import annotations

from shadowset.requester.backup.plan import JobPlan, PlannedComponent
from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.codes import Code, describe
from shadowset.vss.components import BackupComponentsDocument, Component
from shadowset.vss.enums import WriterState
from shadowset.vss.requester_protocol import WriterStatus


class Verdicts:
    """``reasons`` are why components failed, by their number in the plan; ``problems`` are writers that failed late;
    ``remarks`` are what writers say of components that did not fail, in sentences.

    ``document`` is what the writers had made of the backup components document when it was last looked at.
    """

    def __init__(self, plan: JobPlan) -> None:
        self._plan = plan
        self.reasons: dict[int, str] = {}
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.document = BackupComponentsDocument()

    def fail(self, number: int, reason: str) -> None:
        """A component failed; the first reason counts."""
        self.reasons.setdefault(number, reason)

    def judge(self, calls: BackupComponents) -> None:
        """A writer that failed takes all its components with it; one that failed in part, those that say so."""
        failed = [status for status in calls.gather_writer_status().result() if has_failed(status)]
        self._fail_components_of([status for status in failed if not failed_in_part(status)])
        self.document = calls.get_document()
        self._fail_components_that_say_so()
        named = self._writers_with_failed_components()
        self._fail_components_of([status for status in failed if status.instance_id not in named])

    def _writers_with_failed_components(self) -> set[str]:
        return {self._plan.components[number].writer.instance_id for number in self.reasons}

    def _fail_components_of(self, failed: list[WriterStatus]) -> None:
        by_instance = {status.instance_id: status for status in failed}
        for number, component in enumerate(self._plan.components):
            status = by_instance.get(component.writer.instance_id)
            if status is not None:
                self.fail(number, writer_failure_text(status))

    def _fail_components_that_say_so(self) -> None:
        for number, planned in enumerate(self._plan.components):
            found = find_component(self.document, planned)
            reason = component_failure_text(found) if found is not None else ""
            if reason:
                self.fail(number, f"its writer says: {reason}")
            elif found is not None and found.failure.message:
                about = f"component {planned.info.full_path} of writer {planned.writer.name}"
                self.remarks.append(f"{about}: {found.failure.message}")

    def note_failed_writers(self, calls: BackupComponents, when: str) -> None:
        """Writers that failed and whose components do not tell it already."""
        taking_part = {component.writer.instance_id for component in self._plan.components}
        for status in calls.gather_writer_status().result():
            named = any(writer_failure_text(status) == reason for reason in self.reasons.values()) or (
                failed_in_part(status) and status.instance_id in self._writers_with_failed_components()
            )
            if status.instance_id in taking_part and has_failed(status) and not named:
                self.problems.append(f"{when} {writer_failure_text(status)}")


def find_component(document: BackupComponentsDocument, planned: PlannedComponent) -> Component | None:
    """A planned component in the document, as the writers left it."""
    writer = document.writer(planned.writer.writer_id, planned.writer.instance_id)
    return writer.component(planned.info.logical_path, planned.info.name) if writer else None


def component_failure_text(component: Component) -> str:
    """What a component's writer says of its backup: its messages by phase, and the failure; empty when it is well."""
    phases = (
        ("prepare-backup", component.prepare_for_backup_failure_message),
        ("post-snapshot", component.post_snapshot_failure_message),
    )
    told = [f"{message} (at {phase})" for phase, message in phases if message]
    failure = component.failure
    if failure.code:
        known = any(failure.message == message for _, message in phases)
        code = f"[{describe(failure.code)}]"
        own = f", the application's code is {failure.application_code}" if failure.application_code else ""
        told.append(f"{code}{own}" if known else f"{failure.message} {code}{own}")
    return " ".join(told)


def has_failed(status: WriterStatus) -> bool:
    """Whether a writer is out of this backup."""
    return status.state >= WriterState.FAILED_AT_IDENTIFY or not status.connected


def failed_in_part(status: WriterStatus) -> bool:
    """Whether a writer says that only some of its components failed."""
    return status.connected and status.failure.code == Code.VSS_E_WRITERERROR_PARTIAL_FAILURE


def writer_failure_text(status: WriterStatus) -> str:
    """What is wrong with a writer, as a sentence."""
    state = status.state.name.lower().replace("_", " ")
    if not status.connected:
        state += ", its process is gone"
    why = f": {status.failure.message} [{describe(status.failure.code)}]" if status.failure.code else ""
    return f"writer {status.name} {state}{why}"
