"""What a test writer is told: who it is, what it has, how it behaves. Pure; ``read_settings`` checks all of it."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from enum import Enum

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import DifferencedFile, DirectedTarget, PartialFile
from shadowset.vss.documents.metadata_xml import (
    LEVEL_WORDS,
    METHOD_WORDS,
    SOURCE_WORDS,
    USAGE_WORDS,
    WRITER_RESTORE_WORDS,
)
from shadowset.vss.enums import (
    BackupSchema,
    ComponentType,
    FileSetMask,
    Level,
    RestoreMethodType,
    RestoreTarget,
    SourceType,
    UsageType,
    WriterEvent,
    WriterRestore,
)
from shadowset.vss.filespec import is_absolute
from shadowset.vss.metadata import (
    ComponentInfo,
    Dependency,
    ExcludedFiles,
    FileSet,
    LocationMapping,
    RestoreMethod,
)
from shadowset.vss.ranges import names_ranges_file, parse_ranges
from shadowset.writers.testwriter.table import Table

WRITER_ID = "5affb034-969f-4919-8875-88f830d0ef89"
LONGEST_MS = 24 * 3600 * 1000
GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)

EVENTS = {
    "Identify": WriterEvent.IDENTIFY,
    "PrepareForBackup": WriterEvent.PREPARE_BACKUP,
    "PrepareForSnapshot": WriterEvent.PREPARE_SNAPSHOT,
    "PrepareForSnapsot": WriterEvent.PREPARE_SNAPSHOT,  # so misspelt in what is published
    "Freeze": WriterEvent.FREEZE,
    "Thaw": WriterEvent.THAW,
    "PostSnapshot": WriterEvent.POST_SNAPSHOT,
    "Abort": WriterEvent.ABORT,
    "BackupComplete": WriterEvent.BACKUP_COMPLETE,
    "BackupShutdown": WriterEvent.BACKUP_SHUTDOWN,
    "PreRestore": WriterEvent.PRE_RESTORE,
    "PostRestore": WriterEvent.POST_RESTORE,
}
WITH_COMPONENTS = (
    WriterEvent.PREPARE_BACKUP,
    WriterEvent.POST_SNAPSHOT,
    WriterEvent.PRE_RESTORE,
    WriterEvent.POST_RESTORE,
)
RETRYABLE = (
    Code.VSS_E_WRITERERROR_RETRYABLE,
    Code.VSS_E_WRITERERROR_OUTOFRESOURCES,
    Code.VSS_E_WRITERERROR_TIMEOUT,
    Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT,
)
CODES = {code.name: int(code) for code in Code if code >= 0x80000000}
LEVELS = {word: level for level, word in LEVEL_WORDS.items()}
USAGES = {word: usage for usage, word in USAGE_WORDS.items()}
SOURCES = {word: source for source, word in SOURCE_WORDS.items()}
METHODS = {word: method for method, word in METHOD_WORDS.items()}
METHODS["RESTORE_IF_CAN_REPLACE"] = RestoreMethodType.RESTORE_IF_CAN_REPLACE
WRITER_RESTORES = {word: restore for restore, word in WRITER_RESTORE_WORDS.items()}
TARGETS = {
    "original": RestoreTarget.ORIGINAL,
    "alternate": RestoreTarget.ALTERNATE,
    "directed": RestoreTarget.DIRECTED,
    "original_location": RestoreTarget.ORIGINAL_LOCATION,
}
TYPES = {"filegroup": ComponentType.FILEGROUP, "database": ComponentType.DATABASE}
SCHEMAS = {
    "supports_copy": BackupSchema.COPY,
    "supports_differential": BackupSchema.DIFFERENTIAL,
    "supports_incremental": BackupSchema.INCREMENTAL,
    "supports_log": BackupSchema.LOG,
    "supports_timestamps": BackupSchema.TIMESTAMPED,
    "supports_last_modify": BackupSchema.LAST_MODIFY,
    "supports_lsn": BackupSchema.LSN,
    "exclusive_incremental_differential": BackupSchema.EXCLUSIVE_INCREMENTAL_DIFFERENTIAL,
    "supports_restore_with_move": BackupSchema.WRITER_SUPPORTS_RESTORE_WITH_MOVE,
    "supports_roll_forward": BackupSchema.ROLLFORWARD_RESTORE,
    "supports_restore_rename": BackupSchema.RESTORE_RENAME,
    "supports_authoritative_restore": BackupSchema.AUTHORITATIVE_RESTORE,
}
MASKS = {
    "full_backup_required": FileSetMask.FULL_BACKUP_REQUIRED,
    "diff_backup_required": FileSetMask.DIFFERENTIAL_BACKUP_REQUIRED,
    "inc_backup_required": FileSetMask.INCREMENTAL_BACKUP_REQUIRED,
    "log_backup_required": FileSetMask.LOG_BACKUP_REQUIRED,
    "full_snapshot_required": FileSetMask.FULL_SNAPSHOT_REQUIRED,
    "diff_snapshot_required": FileSetMask.DIFFERENTIAL_SNAPSHOT_REQUIRED,
    "inc_snapshot_required": FileSetMask.INCREMENTAL_SNAPSHOT_REQUIRED,
    "log_snapshot_required": FileSetMask.LOG_SNAPSHOT_REQUIRED,
}
TIME_PARTS = {
    "year": (1970, 9999),
    "month": (1, 12),
    "day": (1, 31),
    "hour": (0, 23),
    "minute": (0, 59),
    "second": (0, 59),
}


class Ending(Enum):
    """How the process or its connection ends in an action."""

    NONE = "none"
    HANG = "hang"
    DISCONNECT = "disconnect"
    EXIT = "exit"
    KILL = "kill"


class Answer(Enum):
    """What becomes of the answer to an event."""

    NORMAL = "normal"
    NONE = "none"
    LATE = "late"
    TWICE = "twice"
    WRONG = "wrong"
    MALFORMED = "malformed"
    FOREIGN = "foreign"


ENDINGS = {ending.value: ending for ending in Ending}
ANSWERS = {answer.value: answer for answer in Answer}


@dataclass(frozen=True)
class ComponentFailure:
    """A component that fails by itself."""

    path: str
    code: int
    application_code: int
    message: str


@dataclass(frozen=True)
class Action:
    """What happens in an event, ``times`` times (0: always). No ``codes``: the event succeeds.

    One of ``codes`` is reported; with ``veto`` as a refusal. ``mark`` is a file to make, ``wait_for`` one to wait for.
    """

    event: WriterEvent
    times: int = 0
    codes: tuple[int, ...] = ()
    veto: bool = True
    application_code: int = 0
    message: str = ""
    sleep_ms: int = 0
    mark: str = ""
    wait_for: str = ""
    ending: Ending = Ending.NONE
    answer: Answer = Answer.NORMAL
    late_ms: int = 0
    failing: tuple[ComponentFailure, ...] = ()


@dataclass(frozen=True)
class ComponentSettings:
    """One component, and what the writer puts into the backup components document for it.

    With ``stamps`` its stamp is the time of PrepareForSnapshot in Unix nanoseconds, and differenced files are those
    changed since the previous stamp.
    """

    info: ComponentInfo
    partial_files: tuple[PartialFile, ...] = ()
    differenced_files: tuple[DifferencedFile, ...] = ()
    backup_stamp: str = ""
    backup_metadata: str = ""
    stamps: bool = False
    restore_target: RestoreTarget = RestoreTarget.UNDEFINED
    directed_targets: tuple[DirectedTarget, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The whole configuration."""

    writer_id: str
    name: str
    instance_name: str
    usage: UsageType
    source: SourceType
    level: Level
    freeze_timeout_ms: int
    verbosity: str
    journal: str
    delete_files: bool
    delete_partial_files: bool
    delete_differenced_files: bool
    cut_logs: bool
    check_includes: bool
    check_excludes: bool
    schema: int
    restore_method: RestoreMethod
    mappings: tuple[LocationMapping, ...]
    excluded: tuple[ExcludedFiles, ...]
    components: tuple[ComponentSettings, ...]
    actions: tuple[Action, ...]

    def component(self, logical_path: str, name: str) -> ComponentSettings | None:
        """The component with this identity, or None."""
        for each in self.components:
            if each.info.logical_path == logical_path and each.info.name == name:
                return each
        return None


def read_settings(root: Table) -> Settings:
    """All of a configuration. Errors: E_INVALIDARG, one sentence with the place and what is allowed."""
    methods = root.tables("restore_method")
    if len(methods) != 1:
        root.refuse("there has to be exactly one restore method")
    method, mappings = _restore_method(methods[0])
    settings = Settings(
        writer_id=_guid(root, "writer_id", WRITER_ID),
        name=root.text("writer_name", "Test Writer"),
        instance_name=root.text("instance_name", ""),
        usage=root.word("usage", USAGES, UsageType.USERDATA),
        source=root.word("data_source", SOURCES, SourceType.OTHER),
        level=root.word("level", LEVELS, Level.FRONT_END),
        freeze_timeout_ms=root.number("freeze_timeout_ms", 60_000, 1, LONGEST_MS),
        verbosity=root.word("verbosity", {word: word for word in ("low", "medium", "high")}, "medium"),
        journal=root.text("journal", ""),
        delete_files=root.flag("delete_files", False),
        delete_partial_files=root.flag("delete_partial_files", False),
        delete_differenced_files=root.flag("delete_differenced_files", False),
        cut_logs=root.flag("cut_logs", False),
        check_includes=root.flag("check_includes", False),
        check_excludes=root.flag("check_excludes", False),
        schema=_schema(root),
        restore_method=method,
        mappings=mappings,
        excluded=tuple(_excluded(table) for table in root.tables("exclude_file")),
        components=_components(root),
        actions=(),
    )
    actions = (*map(_fail_event, root.tables("fail_event")), *(_action(t, settings) for t in root.tables("action")))
    root.done()
    return Settings(**{**vars(settings), "actions": actions})


def _schema(root: Table) -> int:
    schema = sum(bit for name, bit in SCHEMAS.items() if root.flag(name, False))
    new_target = root.flag("supports_new_target", True)
    return int(schema | (BackupSchema.WRITER_SUPPORTS_NEW_TARGET if new_target else 0))


def _guid(table: Table, name: str, default: str | None = None) -> str:
    value = table.text(name, default)
    if not GUID.fullmatch(value.strip("{}")):
        table.refuse(f"{value[:60]!r} is not the id of a writer; write a GUID such as {WRITER_ID}")
    return value.strip("{}").lower()


def _place(table: Table, name: str = "path", default: str | None = None) -> str:
    path = table.text(name, default)
    if path and not is_absolute(path):
        table.refuse(f"{path[:100]!r} is not an absolute path; begin it with / or a variable")
    return path


def _restore_method(table: Table) -> tuple[RestoreMethod, tuple[LocationMapping, ...]]:
    method = RestoreMethod(
        method=table.word("method", METHODS),
        service=table.text("service", ""),
        user_procedure=table.text("user_procedure", ""),
        writer_restore=table.word("writer_restore", WRITER_RESTORES, WriterRestore.ALWAYS),
        reboot_required=table.flag("reboot_required", False),
    )
    mappings = tuple(_mapping(each) for each in table.tables("alternate_location_mapping"))
    table.done()
    return method, mappings


def _mapping(table: Table) -> LocationMapping:
    mapping = LocationMapping(
        _place(table), table.text("filespec"), table.flag("recursive", False), _place(table, "alternate_path")
    )
    table.done()
    return mapping


def _excluded(table: Table) -> ExcludedFiles:
    excluded = ExcludedFiles(_place(table), table.text("filespec"), table.flag("recursive", False))
    table.done()
    return excluded


def _components(root: Table) -> tuple[ComponentSettings, ...]:
    found: dict[str, ComponentSettings] = {}
    for table in root.tables("component"):
        component = _component(table)
        if component.info.full_path in found:
            table.refuse(f"the component {component.info.full_path} stands here for the second time")
        found[component.info.full_path] = component
    return tuple(found.values())


def _component(table: Table) -> ComponentSettings:
    kind = table.word("component_type", TYPES)
    name = table.text("component_name")
    if "\\" in name or "/" in name:
        table.refuse(f"a component cannot be named {name[:60]!r}: write the name without / and \\")
    files, logs = _files(table, kind)
    info = ComponentInfo(
        type=kind,
        name=name,
        logical_path=table.text("logical_path", "").strip("\\"),
        caption=table.text("caption", ""),
        restore_metadata=table.flag("restore_metadata", False),
        notify_on_backup_complete=table.flag("notify_on_backup_complete", False),
        selectable=table.flag("selectable", True),
        selectable_for_restore=table.flag("selectable_for_restore", False),
        files=files if kind is ComponentType.FILEGROUP else (),
        database_files=files if kind is ComponentType.DATABASE else (),
        log_files=logs,
        dependencies=tuple(_dependency(each) for each in table.tables("dependency")),
    )
    component = ComponentSettings(
        info,
        tuple(_partial(each) for each in table.tables("partial_file")),
        tuple(_differenced(each) for each in table.tables("differenced_file")),
        table.text("backup_stamp", ""),
        table.text("backup_metadata", ""),
        table.flag("stamps", False),
        table.word("restore_target", TARGETS, RestoreTarget.UNDEFINED),
        tuple(_directed(each) for each in table.tables("directed_target")),
    )
    table.done()
    return component


def _files(table: Table, kind: ComponentType) -> tuple[tuple[FileSet, ...], tuple[FileSet, ...]]:
    files: list[FileSet] = []
    logs: list[FileSet] = []
    for each in table.tables("component_file"):
        is_log = each.flag("log_file", False)
        if is_log and kind is not ComponentType.DATABASE:
            each.refuse("only a component of the type database has log files")
        (logs if is_log else files).append(_file_set(each))
    return tuple(files), tuple(logs)


def _file_set(table: Table) -> FileSet:
    mask = int(sum(bit for name, bit in MASKS.items() if table.flag(name, True)))
    mask |= int(FileSetMask.CREATED_DURING_BACKUP) if table.flag("created_during_backup", False) else 0
    files = FileSet(
        _place(table),
        table.text("filespec"),
        table.flag("recursive", False),
        _place(table, "alternate_path", ""),
        mask,
    )
    table.done()
    return files


def _dependency(table: Table) -> Dependency:
    dependency = Dependency(_guid(table, "writer_id"), table.text("logical_path", ""), table.text("component_name"))
    table.done()
    return dependency


def _partial(table: Table) -> PartialFile:
    partial = PartialFile(_place(table), table.text("filespec"), table.text("ranges"), table.text("metadata", ""))
    try:
        if not names_ranges_file(partial.ranges):
            parse_ranges(partial.ranges)
    except VssError as error:
        table.refuse(f"{error.message}, as in 0:5,100:20, or the path of a ranges file")
    table.done()
    return partial


def _directed(table: Table) -> DirectedTarget:
    target = DirectedTarget(
        _place(table, "source_path"),
        table.text("source_filename"),
        table.text("source_ranges", ""),
        _place(table, "destination_path"),
        table.text("destination_filename"),
        table.text("destination_ranges", ""),
    )
    table.done()
    return target


def _differenced(table: Table) -> DifferencedFile:
    since = table.number("since", 0, 0, 2**63 - 1) if table.has("since") else None
    files = _place(table), table.text("filespec"), table.flag("recursive", False)
    lsn = table.text("lsn", "")
    if since is None and not lsn:
        since = _time(table)
    table.done()
    return DifferencedFile(*files, since or 0, lsn)


def _time(table: Table) -> int:
    numbers = [table.number(name, low if low == 0 else None, low, high) for name, (low, high) in TIME_PARTS.items()]
    try:
        return int(datetime.datetime(*numbers).astimezone().timestamp()) * 1_000_000_000  # type: ignore[arg-type]
    except ValueError as error:
        table.refuse(f"there is no such day: {error}")


def _fail_event(table: Table) -> Action:
    retryable = table.flag("retryable", False)
    action = Action(
        table.word("writer_event", EVENTS),
        times=table.number("num_failures", 0, 1, 1_000_000),
        codes=tuple(map(int, RETRYABLE)) if retryable else (int(Code.VSS_E_WRITERERROR_NONRETRYABLE),),
        message="the configuration tells the writer to fail here",
    )
    table.done()
    return action


def _codes(table: Table) -> tuple[int, ...]:
    code = table.word("code", CODES, 0)
    return (code,) if code else ()


def _action(table: Table, settings: Settings) -> Action:
    action = Action(
        event=table.word("writer_event", EVENTS),
        times=table.number("times", 0, 1, 1_000_000),
        codes=_codes(table),
        veto=table.flag("veto", True),
        application_code=table.number("application_code", 0, 0, 2**32 - 1),
        message=table.text("message", "the configuration tells the writer to fail here"),
        sleep_ms=table.number("sleep_ms", 0, 1, LONGEST_MS),
        mark=_place(table, "mark", ""),
        wait_for=_place(table, "wait_for", ""),
        ending=table.word("ending", ENDINGS, Ending.NONE),
        answer=table.word("answer", ANSWERS, Answer.NORMAL),
        late_ms=table.number("late_ms", 1000, 1, LONGEST_MS),
        failing=tuple(_failing(each, settings) for each in table.tables("fail_component")),
    )
    if action.failing and action.event not in WITH_COMPONENTS:
        table.refuse(f"a component can only fail in {', '.join(_words(WITH_COMPONENTS))}")
    if not action.codes and (table.has("veto") or table.has("application_code") or table.has("message")):
        table.refuse("veto, application code and message need a code")
    table.done()
    return action


def _words(events: tuple[WriterEvent, ...]) -> list[str]:
    return [word for word, event in EVENTS.items() if event in events]


def _failing(table: Table, settings: Settings) -> ComponentFailure:
    logical_path, name = table.text("logical_path", "").strip("\\"), table.text("component_name")
    if settings.component(logical_path, name) is None:
        known = ", ".join(each.info.full_path for each in settings.components)
        table.refuse(f"there is no component {name[:60]!r} with this logical path; there are {known or 'none'}")
    failure = ComponentFailure(
        f"{logical_path}\\{name}" if logical_path else name,
        table.word("code", CODES, int(Code.VSS_E_WRITERERROR_NONRETRYABLE)),
        table.number("application_code", 0, 0, 2**32 - 1),
        table.text("message", "the configuration tells this component to fail"),
    )
    table.done()
    return failure
