"""Which components a backup or a restore takes: VSS's rules of selection, dependencies, and the plan of a whole backup.

A component's identity within its writer is its full path: logical path and name joined by ``\\``.
"""

from shadowset.vss.selection.dependencies import (
    ComponentKey,
    DependencyTarget,
    UnmetDependency,
    check_cycles,
    check_dependencies,
    dependency_target,
    guid_key,
    remote_dependencies,
    unmet_dependencies,
)
from shadowset.vss.selection.plan import BackupPlan, Dropped, DropReason, PlannedWriter, Selector, plan_backup
from shadowset.vss.selection.rules import (
    ComponentTree,
    RestoreSelection,
    check_explicit,
    component_at,
    component_set,
    defining_component,
    explicit_components,
    find_file_set,
    implied_components,
    mandatory_components,
    missing_system_state,
    restore_selection,
    selectable_ancestor,
    system_state_components,
    topmost_selectable,
    wants_restore_events,
)

__all__ = [
    "BackupPlan",
    "ComponentKey",
    "ComponentTree",
    "DependencyTarget",
    "DropReason",
    "Dropped",
    "PlannedWriter",
    "RestoreSelection",
    "Selector",
    "UnmetDependency",
    "check_cycles",
    "check_dependencies",
    "check_explicit",
    "component_at",
    "component_set",
    "defining_component",
    "dependency_target",
    "explicit_components",
    "find_file_set",
    "guid_key",
    "implied_components",
    "mandatory_components",
    "missing_system_state",
    "plan_backup",
    "remote_dependencies",
    "restore_selection",
    "selectable_ancestor",
    "system_state_components",
    "topmost_selectable",
    "unmet_dependencies",
    "wants_restore_events",
]
