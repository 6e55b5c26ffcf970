"""A whole restore: check the backup and all that it builds on, then restore them in order, each with its writers.

Everything about the backups is checked before anything is asked of a writer or touched on a disk. Each component is
restored as a whole: what is on the disk afterwards is what was in the backup, without stale files of its file sets.
Writers whose metadata says that they are never to be involved (WriterRestore.NEVER) get no events. While backups of a
chain are still to come, writers are told so (additional restores); a component that failed in one stops there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping

from shadowset.requester.administration import Administration
from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.chain import Link, open_chain
from shadowset.requester.backup.mounts import read_mounts
from shadowset.requester.observer import Observer, Silent
from shadowset.requester.restore.choose import RestoreItem, choose
from shadowset.requester.restore.mounted import refuse_unmounted
from shadowset.requester.restore.place import Placement
from shadowset.requester.restore.puts import put_at
from shadowset.requester.restore.report import RestoredComponent, RestoreReport, joined, restored
from shadowset.requester.restore.simulate import SimulatedComponent, simulate
from shadowset.requester.restore.step import Identity, RestoreStep
from shadowset.requester.restore.targets import refuse_methods
from shadowset.requester.restore.wishes import Wishes, require_known
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import FileRestoreStatus
from shadowset.vss.paths import Paths
from shadowset.vss.selection import Selector


class RestoreJob:
    """One restore from the directory ``source``. Call one of its methods, once."""

    def __init__(
        self,
        source: str,
        *,
        wanted: tuple[Selector, ...] | None = None,
        excluded: tuple[Selector, ...] = (),
        paths: Paths | None = None,
        observer: Observer | None = None,
        variables: Mapping[str, str] | None = None,
        wishes: Wishes | None = None,
        document: str = "",
    ) -> None:
        """``document`` (XML) stands for the newest backup's own."""
        self._source = os.path.abspath(source)
        self._wanted = wanted
        self._excluded = excluded
        self._paths = paths or Paths.from_environment(os.environ)
        self._observer: Observer = observer or Silent()
        self._variables = os.environ if variables is None else variables
        self._wishes = wishes or Wishes()
        self._document = document
        self._problems: list[str] = []

    def run(self) -> RestoreReport:
        """Restore to the original places, with the writers. Errors: VssError before anything was changed."""
        self._open()
        items = self._all_items()
        refuse_methods(items)
        require_known(self._wishes, items)
        self._verify(items)
        self._refuse_unmounted(items)
        results: dict[Identity, RestoredComponent] = {}
        mapped: dict[Identity, bool] = {}
        for link, step_items in zip(self._chain, self._steps, strict=True):
            going = [item for item in step_items if _goes_on(results.get(item.identity))]
            for item, result in zip(going, self._step(link, going, mapped, bool(results)), strict=True):
                results[item.identity] = joined(results.get(item.identity), result)
        report = self._report("", list(results.values()))
        flagged = any(item.metadata.restore_method.reboot_required for item in items)
        report.reboot_required = flagged or any(result.at_reboot for result in report.components)
        return report

    def _step(
        self, link: Link, items: list[RestoreItem], mapped: dict[Identity, bool], begun: bool
    ) -> list[RestoredComponent]:
        """Restore one backup. Once others were (``begun``), an error is told as that of its components."""
        if not items:
            return []
        step = RestoreStep(link, items, self._wishes, mapped, self._variables, self._paths, self._observer)
        try:
            return step.run()
        except VssError as error:
            if not begun:
                raise
            return [restored(item, FileRestoreStatus.NONE, f"{link.directory}: {error.message}") for item in items]
        finally:
            self._problems += step.problems

    def run_to(self, directory: str) -> RestoreReport:
        """Put the files below a new or empty directory, in their original tree, without any writer.

        Attributes that the directory's file system cannot have are left out.

        Errors: VssError, after which nothing is left there.
        """
        self._open()
        items = self._all_items()
        self._verify(items)
        top = os.path.abspath(directory)
        if os.path.lexists(top) and (not os.path.isdir(top) or os.listdir(top)):
            raise VssError(Code.E_INVALIDARG, f"{directory} is not an empty directory; name an empty or new one")
        on_bytes = self._observer.begin(sum(file.size for item in items for file in item.files))
        results: dict[Identity, RestoredComponent] = {}
        with _nothing_left(top):
            for link, step_items in zip(self._chain, self._steps, strict=True):
                files = [file for item in step_items for file in item.files if file.kind != bundle.RANGES_FILE]
                placement = Placement(
                    link.directory, [put_at(file, f"{top}{file.path}") for file in files], strict=False
                )
                placement.require_replaceable()
                gone = [f"{top}{path}" for item in step_items for path in item.component.gone]
                placement.stage(on_bytes)
                placement.commit([path for path in gone if os.path.lexists(path)])
                for item in step_items:
                    result = restored(item, FileRestoreStatus.ALL)
                    results[item.identity] = joined(results.get(item.identity), result)
        self._observer.end()
        return self._report(top, list(results.values()))

    def simulate(self) -> list[SimulatedComponent]:
        """What ``run`` would do as things stand, without asking anybody or changing anything. Errors: VssError."""
        self._open()
        items = self._all_items()
        require_known(self._wishes, items)
        self._verify(items)
        return simulate(self._steps, self._wishes, self._variables)

    # ---- the backups ----

    def _open(self) -> None:
        chain = self._chain = open_chain(self._source)
        if self._document:
            chain[-1].texts[bundle.COMPONENTS_DOCUMENT] = self._document
        self._steps = choose(chain, self._wanted, self._excluded)

    def _all_items(self) -> list[RestoreItem]:
        return [item for items in self._steps for item in items]

    def _verify(self, items: list[RestoreItem]) -> None:
        self._observer.phase("checking the backup")
        on_bytes = self._observer.begin(sum(file.size for item in items for file in item.files))
        for item in items:
            bundle.verify_files(item.link.directory, item.files, on_bytes)
        self._observer.end()

    def _refuse_unmounted(self, items: list[RestoreItem]) -> None:
        with Administration(self._paths, client="shadowset restore") as administration:
            volumes = administration.volume_list()
        now = {mount.path for mount in read_mounts()}
        now |= {point for volume in volumes for point in volume.mount_points}
        refuse_unmounted(items, self._wishes, now, self._variables)

    def _report(self, to: str, results: list[RestoredComponent]) -> RestoreReport:
        return RestoreReport(
            source=self._source,
            to=to,
            set_id=self._chain[-1].manifest.set_id,
            succeeded=all(result.status == FileRestoreStatus.ALL for result in results) and not self._problems,
            components=results,
            problems=self._problems,
            backups=[link.directory for link, items in zip(self._chain, self._steps, strict=True) if items],
        )


def _goes_on(before: RestoredComponent | None) -> bool:
    return before is None or before.status == FileRestoreStatus.ALL


@contextlib.contextmanager
def _nothing_left(top: str) -> Iterator[None]:
    """Empty a directory again, or remove it if it was not there, when something goes wrong."""
    made = not os.path.lexists(top)
    try:
        yield
    except BaseException:
        shutil.rmtree(top, ignore_errors=True)
        if not made:
            os.makedirs(top, exist_ok=True)
        raise
