"""The pages, from what the coordinator and the manifests tell; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlencode

from shadowset.requester.backup.catalogue import FoundFile, Version
from shadowset.requester.jobs.history import SUCCEEDED, JobRun
from shadowset.requester.page.drawing import Sample, course, gauge, timeline
from shadowset.requester.page.elements import Child, Element, document, el, link, number, table
from shadowset.requester.progress import size_text
from shadowset.requester.sentences import context_name, time_text
from shadowset.vss.codes import code_name
from shadowset.vss.enums import SnapshotState
from shadowset.vss.requester_protocol import (
    EventRecord,
    SetRecord,
    SnapshotProperties,
    StorageInfo,
    VolumeInfo,
    WriterStatus,
)

MOST_FILES = 500


def no_coordinator(why: str) -> bytes:
    """When there is nobody to ask."""
    return document("No coordinator", el("p", why, class_="bad"))


def _state(text: str, good: bool) -> Element:
    return el("span", text, class_="good" if good else "bad")


def overview(
    volumes: Sequence[VolumeInfo],
    storages: Sequence[StorageInfo],
    writers: Sequence[WriterStatus],
    jobs: Sequence[tuple[str, JobRun | None]],
    samples: Callable[[str], list[Sample]],
) -> bytes:
    """Volumes with their storage, writers, jobs."""
    return document(
        "Overview",
        el("h2", "Volumes"),
        _volumes(volumes, {storage.volume: storage for storage in storages}),
        *_courses(volumes, samples),
        el("h2", "Writers"),
        _writers(writers),
        el("h2", "Backup jobs"),
        _jobs(jobs),
    )


def _volumes(volumes: Sequence[VolumeInfo], storages: dict[str, StorageInfo]) -> Element:
    rows: list[list[Child]] = []
    for volume in volumes:
        storage = storages.get(volume.name)
        rows.append(
            [
                volume.name,
                _state(f"{volume.state} {volume.message}".strip(), volume.state == "online"),
                volume.device or "not attached",
                ", ".join(volume.mount_points),
                number(size_text(volume.size)),
                number(str(volume.copies)),
                el("td", gauge(storage.used, storage.max_size)) if storage else "",
                storage.policy if storage else "",
            ]
        )
    headings = ("Volume", "State", "Device", "Mounted at", "Size", "Copies", "Shadow storage", "When full")
    return table(headings, rows, "No volume is protected yet: shadowset volume add.")


def _courses(volumes: Sequence[VolumeInfo], samples: Callable[[str], list[Sample]]) -> Iterable[Element]:
    for volume in volumes:
        found = samples(volume.name)
        if len(found) > 1:
            yield el("h3", f"Shadow storage of {volume.name}")
            yield course(found)


def _writers(writers: Sequence[WriterStatus], empty: str = "No writer is registered.") -> Element:
    rows: list[list[Child]] = [
        [
            " ".join(filter(None, (writer.name, writer.instance_name))),
            _state(writer.state.name.lower().replace("_", " "), not writer.failure.code),
            "connected" if writer.connected else "no process",
            f"{code_name(writer.failure.code)}: {writer.failure.message}" if writer.failure.code else "none",
        ]
        for writer in writers
    ]
    return table(("Writer", "State", "Process", "Last error"), rows, empty)


def _jobs(jobs: Sequence[tuple[str, JobRun | None]]) -> Element:
    rows: list[list[Child]] = [
        [
            name,
            _state(run.status, run.status == SUCCEEDED) if run else "never ran",
            run.started if run else "",
            run.version if run else "",
            "; ".join(run.sentences) if run else "",
        ]
        for name, run in jobs
    ]
    return table(("Job", "Last run", "At", "Version", "Reasons"), rows, "No job is defined.")


def copies(found: Sequence[SnapshotProperties]) -> bytes:
    """All shadow copies, the newest first."""
    rows: list[list[Child]] = [
        [
            link(copy.snapshot_id, "/set?" + urlencode({"id": copy.snapshot_set_id})),
            copy.original_volume,
            time_text(copy.created_ns),
            copy.device_object,
            copy.exposed_name,
        ]
        for copy in sorted(found, key=lambda copy: -copy.created_ns)
    ]
    headings = ("Copy", "Volume", "Made", "Device object", "Mounted at")
    return document("Shadow copies", table(headings, rows, "There is no shadow copy."))


def one_set(record: SetRecord) -> bytes:
    """How a set was made."""
    made = record.status is SnapshotState.CREATED
    why = f": {code_name(record.failure.code)} {record.failure.message}" if record.failure.code else ""
    times: list[list[Child]] = [
        [
            each.volume,
            number(f"{each.drain_ms:.1f}"),
            number(f"{each.hold_ms:.1f}"),
            number(f"{each.frozen_ms:.1f}"),
            number(str(each.waited)),
        ]
        for each in record.volumes
    ]
    return document(
        f"Set {record.set_id}",
        el("p", time_text(record.created_ns), ", ", context_name(record.context), ", ", _state("made", True))
        if made
        else el("p", _state(f"{record.status.name.lower()}{why}", False)),
        el("h2", "Who did what when"),
        timeline(record.timeline) if record.timeline else el("p", "No timeline was recorded.", class_="empty"),
        el("h2", "What it cost the volumes, in milliseconds"),
        table(("Volume", "Drain", "Hold", "Frozen", "Writes that waited"), times, "No volume."),
        el("h2", "Writers"),
        _writers(record.writers, "No writer took part."),
    )


def backups(places: Sequence[tuple[str, Sequence[Version] | str]]) -> bytes:
    """The backups in some places, or why a place cannot be read."""
    body: list[Element] = []
    for place, found in places:
        body.append(el("h2", place))
        if isinstance(found, str):
            body.append(el("p", found, class_="bad"))
            continue
        rows: list[list[Child]] = [
            [
                link(version.created or version.directory, "/backup?" + urlencode({"of": version.directory})),
                version.backup_type.lower(),
                _state(*_soundness(version)),
                ", ".join(sorted({component.writer for component in version.components})),
                number(str(version.files)),
                number(size_text(version.bytes)),
            ]
            for version in reversed(found)
        ]
        headings = ("Backup", "Type", "State", "Writers", "Files", "Size")
        body.append(table(headings, rows, "There is no backup."))
    if not places:
        body.append(el("p", "No place of backups is known: define a job, or name some with --backups.", class_="empty"))
    return document("Backups", *body)


def _soundness(version: Version) -> tuple[str, bool]:
    if version.trouble:
        return f"cannot be restored: {version.trouble}", False
    return ("complete", True) if version.complete else ("a part failed", False)


def one_backup(version: Version, files: Sequence[FoundFile], pattern: str) -> bytes:
    """The components of a backup, and its files that fit a pattern, to be downloaded."""
    components: list[list[Child]] = [
        [
            component.writer,
            component.full_path,
            _state("backed up" if component.succeeded else component.reason, component.succeeded),
            number(str(component.files)),
            number(size_text(component.bytes)),
        ]
        for component in version.components
    ]
    rows: list[list[Child]] = [
        [
            link(
                file.path, "/file?" + urlencode({"of": version.directory, "path": file.path}, errors="surrogateescape")
            ),
            number(size_text(file.bytes)),
            time_text(file.mtime_ns),
        ]
        for file in files[:MOST_FILES]
    ]
    more = el("p", f"{len(files) - MOST_FILES} more; look for fewer.") if len(files) > MOST_FILES else None
    return document(
        f"Backup of {version.created}",
        el("p", el("code", version.directory)),
        el("h2", "Components"),
        table(("Writer", "Component", "Result", "Files", "Size"), components, "None."),
        el("h2", "Files"),
        el(
            "form",
            el("input", type="hidden", name="of", value=version.directory),
            el("input", name="file", value=pattern, placeholder="*.odt"),
            el("button", "Find"),
            method="get",
            action="/backup",
        ),
        table(("File", "Size", "Changed"), rows, "No file fits."),
        more,
    )


def events(found: Sequence[EventRecord]) -> bytes:
    """What happened, the newest first."""
    rows = [[time_text(event.time_ns), event.name, event.volume, event.message] for event in reversed(found[-500:])]
    return document("Events", table(("Time", "Event", "Volume", "What happened"), rows, "Nothing happened yet."))
