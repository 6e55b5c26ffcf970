"""A whole restore: check the backup, let the writers make way, put the files back, let the writers take over.

Everything about the backup is checked before anything is asked of a writer or touched on a disk. Each component is
restored as a whole: what is on the disk afterwards is what was in the backup, without stale files of its file sets.
Writers whose metadata says that they are never to be involved (WriterRestore.NEVER) get no events.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.copy import OnBytes
from shadowset.requester.backup.mounts import read_mounts
from shadowset.requester.backup.verdicts import has_failed, writer_failure_text
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.observer import Observer, Silent
from shadowset.requester.restore.choose import RestoreItem, choose, refuse_methods, stored_metadata
from shadowset.requester.restore.mounted import refuse_unmounted
from shadowset.requester.restore.place import Placement, stale_files
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument, Component, WriterComponents
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import BackupType, FileRestoreStatus, RestoreMethodType, RestoreTarget, RestoreType
from shadowset.vss.filespec import PathIndex, files_required, mapped_path
from shadowset.vss.instances import taker_of
from shadowset.vss.metadata import LocationMapping, WriterMetadata
from shadowset.vss.paths import Paths
from shadowset.vss.selection import Selector, guid_key


class RestoredComponent(msgspec.Struct, kw_only=True):
    """How the restore of one component went; ``removed`` are stale files, ``mapped`` alternate places."""

    writer: str
    component: str
    status: FileRestoreStatus
    reason: str = ""
    files: int = 0
    bytes: int = 0
    removed: list[str] = []
    mapped: list[str] = []


class RestoreReport(msgspec.Struct, kw_only=True):
    """How a restore went; ``to`` is empty when the files went to their own places."""

    source: str
    to: str
    set_id: str
    succeeded: bool
    components: list[RestoredComponent]
    problems: list[str]


class RestoreJob:
    """One restore from the directory ``source``. ``run`` once."""

    def __init__(
        self,
        source: str,
        *,
        wanted: tuple[Selector, ...] | None = None,
        excluded: tuple[Selector, ...] = (),
        paths: Paths | None = None,
        observer: Observer | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._source = os.path.abspath(source)
        self._wanted = wanted
        self._excluded = excluded
        self._paths = paths or Paths.from_environment(os.environ)
        self._observer: Observer = observer or Silent()
        self._variables = os.environ if variables is None else variables
        self._problems: list[str] = []
        self._takers: dict[tuple[str, str], str] = {}

    def run(self) -> RestoreReport:
        """Restore to the original places, with the writers. Errors: VssError before anything was changed."""
        texts, items = self._open()
        refuse_methods(items)
        self._verify(items)
        self._refuse_unmounted(items)
        with BackupComponents(self._paths, client="shadowset restore") as calls:
            self._select(calls, texts, items)
            self._observer.phase("letting the writers make way")
            calls.pre_restore().result()
            document = calls.get_document()
            refused = self._refusing_writers(calls)
            results = self._place_all(calls, document, items, refused)
            self._observer.phase("letting the writers take over")
            calls.post_restore().result()
            self._note_failed_writers(calls, items, refused)
        return self._report("", results)

    def run_to(self, directory: str) -> RestoreReport:
        """Put the files below a new or empty directory, in their original tree, without any writer.

        Attributes that the directory's file system cannot have are left out.

        Errors: VssError, after which nothing is left there.
        """
        _texts, items = self._open()
        self._verify(items)
        top = os.path.abspath(directory)
        if os.path.lexists(top) and (not os.path.isdir(top) or os.listdir(top)):
            raise VssError(Code.E_INVALIDARG, f"{directory} is not an empty directory; name an empty or new one")
        on_bytes = self._observer.begin(sum(file.size for item in items for file in item.files))
        pairs = [(file, f"{top}{file.path}") for item in items for file in item.files]
        placement = Placement(self._source, pairs, strict=False)
        placement.stage(on_bytes)
        placement.commit()
        self._observer.end()
        return self._report(top, [_restored(item, FileRestoreStatus.ALL) for item in items])

    # ---- the backup ----

    def _open(self) -> tuple[dict[str, str], list[RestoreItem]]:
        self._manifest = bundle.load(self._source)
        texts = bundle.verify_documents(self._source, self._manifest)
        if any(not component.whole for component in self._manifest.components):
            raise bundle.BundleError(f"{self._source} builds on another backup; chains are not restored yet")
        items = choose(self._manifest, stored_metadata(self._manifest, texts), self._wanted, self._excluded)
        return texts, items

    def _verify(self, items: list[RestoreItem]) -> None:
        self._observer.phase("checking the backup")
        files = [file for item in items for file in item.files]
        on_bytes = self._observer.begin(sum(file.size for file in files))
        bundle.verify_files(self._source, files, on_bytes)
        self._observer.end()

    def _refuse_unmounted(self, items: list[RestoreItem]) -> None:
        with Administration(self._paths, client="shadowset restore") as administration:
            volumes = administration.volume_list()
        now = {mount.mount_point for mount in read_mounts()}
        now |= {point for volume in volumes for point in volume.mount_points}
        refuse_unmounted(self._manifest.volumes, items, now, self._variables)

    # ---- the writers ----

    def _select(self, calls: BackupComponents, texts: dict[str, str], items: list[RestoreItem]) -> None:
        calls.initialize_for_restore(texts[bundle.COMPONENTS_DOCUMENT])
        calls.set_restore_state(RestoreType.BY_COPY)
        self._observer.phase("asking the writers")
        running = calls.gather_writer_metadata().result()
        entries = components_from_xml(texts[bundle.COMPONENTS_DOCUMENT]).writers
        for item in items:
            if not item.events:
                continue
            self._takers[item.instance] = _require_taker(item, entries, running)
            calls.set_selected_for_restore(item.key)
            if item.member is not None:
                calls.add_restore_subcomponent(item.key, item.member.logical_path, item.member.name)

    def _refusing_writers(self, calls: BackupComponents) -> dict[str, str]:
        """Why each instance that runs now and has failed did so."""
        statuses = calls.gather_writer_status().result()
        return {guid_key(status.instance_id): writer_failure_text(status) for status in statuses if has_failed(status)}

    def _taker(self, item: RestoreItem) -> str:
        return self._takers.get(item.instance, "") if item.events else ""

    def _note_failed_writers(self, calls: BackupComponents, items: list[RestoreItem], before: dict[str, str]) -> None:
        concerned = {self._taker(item) for item in items}
        for status in calls.gather_writer_status().result():
            if has_failed(status) and guid_key(status.instance_id) in concerned - set(before):
                self._problems.append(f"after the restore {writer_failure_text(status)}")

    # ---- the files ----

    def _place_all(
        self,
        calls: BackupComponents,
        document: BackupComponentsDocument,
        items: list[RestoreItem],
        refused: dict[str, str],
    ) -> list[RestoredComponent]:
        self._observer.phase("putting the files back")
        on_bytes = self._observer.begin(sum(file.size for item in items for file in item.files))
        results = []
        for item in items:
            reason = refused.get(self._taker(item), "")
            if reason:
                result = _restored(item, FileRestoreStatus.NONE, reason)
            else:
                result = self._place(calls, item, _component_of(document, item), on_bytes)
            if item.events:
                calls.set_file_restore_status(item.key, result.status)
            results.append(result)
        self._observer.end()
        return results

    def _place(
        self, calls: BackupComponents, item: RestoreItem, component: Component | None, on_bytes: OnBytes
    ) -> RestoredComponent:
        """Restore one component; a failure is told in the result, so that the others are restored all the same."""
        placement = None
        try:
            placement, mappings = self._decide(item, component)
            # Before staging, whose temporary files would count as stale.
            leftovers = set(placement.clear())
            stale = [] if mappings else [path for path in self._stale(item) if path not in leftovers]
            placement.stage(on_bytes)
            removed = placement.commit(stale)
        except (VssError, OSError) as error:
            touched = placement is not None and placement.touched
            if placement is not None:
                placement.undo()
            text = str(error) if isinstance(error, VssError) else f"{error.filename}: {error.strerror}"
            return _restored(item, FileRestoreStatus.FAILED if touched else FileRestoreStatus.NONE, text)
        except BaseException:
            if placement is not None:
                placement.undo()
            raise
        for mapping in mappings if item.events else ():
            calls.add_alternative_location_mapping(
                item.key, mapping.path, mapping.filespec, mapping.recursive, mapping.alternate_path
            )
        result = _restored(item, FileRestoreStatus.ALL)
        result.removed = removed
        result.mapped = [mapping.alternate_path for mapping in mappings]
        return result

    def _decide(self, item: RestoreItem, component: Component | None) -> tuple[Placement, list[LocationMapping]]:
        """Original places or alternate ones: the restore target goes before the restore method. Errors: VssError."""
        target = component.restore_target if component else RestoreTarget.UNDEFINED
        original = Placement(self._source, [(file, file.path) for file in item.files])
        if target == RestoreTarget.DIRECTED:
            raise VssError(
                Code.VSS_E_NOT_SUPPORTED,
                f"the writer wants component {item.path} restored to DIRECTED targets, which is not done here; "
                "restore the files with --to DIR and put them in place by hand",
            )
        if target == RestoreTarget.ALTERNATE:
            return self._mapped(item, "the writer asks for it")
        if target == RestoreTarget.ORIGINAL_LOCATION:
            original.require_replaceable()
            return original, []
        return self._by_method(item, original)

    def _by_method(self, item: RestoreItem, original: Placement) -> tuple[Placement, list[LocationMapping]]:
        method = item.metadata.restore_method.method
        if method == RestoreMethodType.RESTORE_TO_ALTERNATE_LOCATION:
            return self._mapped(item, "its writer's restore method asks for it")
        if method == RestoreMethodType.RESTORE_IF_NOT_THERE and (there := original.existing()):
            return self._mapped(item, f"{there} is there, and its writer wants nothing replaced")
        try:
            original.require_replaceable()
        except VssError as error:
            return self._mapped(item, error.message)
        return original, []

    def _mapped(self, item: RestoreItem, why: str) -> tuple[Placement, list[LocationMapping]]:
        index = PathIndex(item.metadata.alternate_location_mappings, self._variables)
        pairs: list[tuple[bundle.ManifestFile, str]] = []
        used: list[LocationMapping] = []
        for file in item.files:
            if file.kind in (bundle.DIRECTORY, bundle.PARENT):
                continue
            mapping = index.find(file.path)
            if mapping is None:
                raise VssError(
                    Code.VSS_E_BAD_STATE,
                    f"component {item.path} must go to another place ({why}), and there is none for {file.path}; "
                    "restore the files with --to DIR",
                )
            pairs.append((file, mapped_path(mapping, file.path, self._variables)))
            used += [mapping] if mapping not in used else []
        placement = Placement(self._source, pairs)
        placement.require_replaceable()
        return placement, used

    def _stale(self, item: RestoreItem) -> list[str]:
        """Only by file sets that a backup of this type had to take, or files it never looked at would go."""
        backup_type = BackupType[self._manifest.backup_type]
        file_sets = [files for files in item.file_sets if files_required(files.mask, backup_type)]
        kept = [file.path for file in self._manifest.files if file.kind in (bundle.REGULAR, bundle.SYMLINK)]
        return stale_files(file_sets, item.metadata.exclude_files, kept, self._variables)

    def _report(self, to: str, results: list[RestoredComponent]) -> RestoreReport:
        return RestoreReport(
            source=self._source,
            to=to,
            set_id=self._manifest.set_id,
            succeeded=all(result.status == FileRestoreStatus.ALL for result in results) and not self._problems,
            components=results,
            problems=self._problems,
        )


def _component_of(document: BackupComponentsDocument, item: RestoreItem) -> Component | None:
    for writer in document.writers:
        if (guid_key(writer.writer_id), guid_key(writer.instance_id)) == item.instance:
            return writer.component(item.component.logical_path, item.component.name)
    return None


def _require_taker(item: RestoreItem, entries: list[WriterComponents], running: list[WriterMetadata]) -> str:
    """The id of the instance that takes an item. Errors: VSS_E_OBJECT_NOT_FOUND."""
    for entry in entries:
        if (guid_key(entry.writer_id), guid_key(entry.instance_id)) == item.instance:
            taker = taker_of(entry, entries, running)
            if taker is not None:
                return guid_key(taker.instance_id)
    others = sum(1 for each in running if guid_key(each.writer_id) == item.instance[0])
    which = f"; {others} other instances of it run, and none is the one that was backed up" if others else ""
    raise VssError(
        Code.VSS_E_OBJECT_NOT_FOUND,
        f"writer {item.metadata.name} does not run, so its component {item.path} cannot be restored{which}; "
        "start it, or restore the files with --to DIR",
    )


def _restored(item: RestoreItem, status: FileRestoreStatus, reason: str = "") -> RestoredComponent:
    regular = [file for file in item.files if file.kind == bundle.REGULAR]
    return RestoredComponent(
        writer=item.metadata.name,
        component=item.path,
        status=status,
        reason=reason,
        files=len(regular) if status == FileRestoreStatus.ALL else 0,
        bytes=sum(file.size for file in regular) if status == FileRestoreStatus.ALL else 0,
    )
