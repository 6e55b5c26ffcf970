"""The copying itself: what each component has is looked up in the shadow copies, then copied out of them."""

from __future__ import annotations

from collections.abc import Mapping

from shadowset.requester.backup.changes import Surroundings, narrow
from shadowset.requester.backup.copy import OnBytes, sync_file_system
from shadowset.requester.backup.listing import Listing, list_component
from shadowset.requester.backup.manifest import ManifestFile
from shadowset.requester.backup.mounts import VolumeMap
from shadowset.requester.backup.plan import JobPlan, PlannedComponent, Root, roots_of
from shadowset.requester.backup.store import Target, component_directories, copy_one
from shadowset.requester.backup.verdicts import Verdicts, find_component
from shadowset.requester.observer import Observer
from shadowset.vss.codes import Code, VssError
from shadowset.vss.metadata import FileSet

Bases = Mapping[int, Mapping[str, ManifestFile] | None]


class Copies:
    """What was copied: ``files``, by component number what is ``gone`` since the base, sentences about ``skipped``."""

    def __init__(
        self, target: Target, exposed: Mapping[str, str], volume_map: VolumeMap, variables: Mapping[str, str]
    ) -> None:
        """``exposed`` is where the copy of each volume of the set is mounted."""
        self._target = target
        self._exposed = exposed
        self._volume_map = volume_map
        self._variables = variables
        self.files: list[ManifestFile] = []
        self.gone: dict[int, list[str]] = {}
        self.skipped: list[str] = []

    def take(self, plan: JobPlan, bases: Bases, verdicts: Verdicts, observer: Observer) -> None:
        """Copy all components that have not failed; what cannot be read fails its component. Errors: TargetError."""
        observer.phase("listing the files")
        listings = {
            number: listing
            for number, component in enumerate(plan.components)
            if number not in verdicts.reasons
            and (listing := self._list(number, component, bases.get(number), verdicts)) is not None
        }
        directories = component_directories(plan.components)
        observer.phase("copying the files")
        on_bytes = observer.begin(sum(listing.size for listing in listings.values()))
        for number, listing in listings.items():
            self._copy(number, plan.components[number], listing, directories[number], verdicts, on_bytes)
        sync_file_system(self._target.directory)
        observer.end()

    def _list(
        self,
        number: int,
        planned: PlannedComponent,
        base: Mapping[str, ManifestFile] | None,
        verdicts: Verdicts,
    ) -> Listing | None:
        try:
            listing = list_component(planned, self._exposed, self._variables)
            component = find_component(verdicts.document, planned)
            if component is not None:
                around = Surroundings(self._exposed, self._variables, lambda files: self._roots(planned, files), base)
                listing = narrow(listing, planned, component, around)
        except OSError as error:
            verdicts.fail(number, f"{error.filename} cannot be read: {error.strerror}")
            return None
        except VssError as error:
            verdicts.fail(number, error.message)
            return None
        self.skipped += listing.skipped
        return listing

    def _roots(self, planned: PlannedComponent, files: FileSet) -> list[Root]:
        """Where to look for files that the writer named after the cut."""
        found = roots_of(planned.info, files, self._volume_map, self._variables)
        for root in found:
            if root.place is not None and root.place.volume not in self._exposed:
                raise VssError(
                    Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT,
                    f"its writer names files in {root.directory} on volume {root.place.volume}, which is not in the "
                    f"set; cut it too (--volume {root.place.volume})",
                )
        return found

    def _copy(
        self,
        number: int,
        component: PlannedComponent,
        listing: Listing,
        directory: str,
        verdicts: Verdicts,
        on_bytes: OnBytes,
    ) -> None:
        entries = []
        for found in listing.found:
            try:
                entries.append(copy_one(self._target, component, directory, found, on_bytes))
            except OSError as error:
                verdicts.fail(number, f"{found.path} cannot be read: {error.strerror}")
                self._target.discard_component(directory)
                return
        self.files += entries
        self.gone[number] = listing.gone
