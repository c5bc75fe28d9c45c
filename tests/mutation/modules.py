"""Which modules decide what is true and what is safe, and the tests of every day that ought to notice a slip in them.

Only tests in this process can: a `reprokit` that a test starts runs the module as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GROUPS", "Group"]


@dataclass(frozen=True)
class Group:
    """Modules below `reprokit/` that are tried together, and their tests below `tests/`."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "core": Group(
        (
            "core/digest.py",
            "core/canonical_json.py",
            "core/safe_json.py",
            "core/logical_keys.py",
            "core/atomic_files.py",
        ),
        ("core", "store/test_staging.py"),
    ),
    "schema": Group(
        (
            "schema/manifest.py",
            "schema/lock.py",
            "schema/recipe.py",
            "schema/record.py",
            "schema/verdict.py",
            "schema/facts.py",
        ),
        ("schema", "runs/test_verdict_store.py", "runs/test_store.py", "comparison/test_compare_runs.py"),
    ),
    "store": Group(
        (
            "store/packs.py",
            "store/staging.py",
            "store/objects.py",
            "store/index.py",
            "store/reader.py",
            "store/manifests.py",
        ),
        ("store", "registry/test_local.py", "registry/test_reading.py", "registry/test_gc.py"),
    ),
    "registry": Group(
        (
            "registry/gc.py",
            "registry/local.py",
            "registry/package_log.py",
            "registry/purge.py",
            "registry/repair.py",
            "registry/marks.py",
            "registry/stored.py",
        ),
        (
            "registry/test_local.py",
            "registry/test_package_log.py",
            "registry/test_reading.py",
            "registry/test_gc.py",
            "registry/test_repair.py",
            "registry/test_seen.py",
            "packages/test_purge.py",
        ),
    ),
    "comparison": Group(
        (
            "comparison/ladder.py",
            "comparison/compare_runs.py",
            "comparison/record_check.py",
            "comparison/metric_diff.py",
            "comparison/checkpoint_diff.py",
            "runs/pairs.py",
            "runs/logged.py",
            "comparison/tensor_pairs.py",
            "comparison/tensor_distance.py",
        ),
        (
            "comparison/test_ladder.py",
            "comparison/test_ladder_lines.py",
            "comparison/test_record_check.py",
            "checkpoint/test_claims.py",
            "comparison/files/test_beside_tensors.py",
            "comparison/test_compare_code.py",
            "comparison/test_metric_diff.py",
            "comparison/test_compare_runs.py",
            "comparison/test_lock_check.py",
            "runs/test_pairs.py",
            "runs/test_logged.py",
            "comparison/test_checkpoint_diff.py",
            "comparison/test_tensor_pairs.py",
            "comparison/test_tensor_distance.py",
            "comparison/files/test_whole_files.py",
        ),
    ),
    "causes": Group(
        ("comparison/causes.py",),
        (
            "comparison/test_causes.py",
            "comparison/test_causes_found.py",
            "comparison/test_causes_weighed.py",
            "comparison/test_compare_runs.py",
        ),
    ),
    "beside": Group(
        (
            "comparison/files/beside_tensors.py",
            "comparison/files/whole_files.py",
            "comparison/json_paths.py",
            "comparison/run_diff.py",
        ),
        (
            "comparison/test_checkpoint_diff.py",
            "comparison/test_compare_runs.py",
            "comparison/files/test_beside_tensors.py",
            "comparison/test_json_paths.py",
            "comparison/test_run_diff.py",
            "comparison/test_run_diff_parts.py",
            "comparison/files/test_whole_files.py",
        ),
    ),
    "claims": Group(
        (
            "checkpoint/claims.py",
            "comparison/lock_check.py",
            "comparison/verify.py",
            "runs/history.py",
            "runs/support.py",
            "registry/seen.py",
        ),
        (
            "checkpoint/test_claims.py",
            "comparison/test_compare_runs.py",
            "comparison/test_lock_check.py",
            "comparison/test_verify.py",
            "runs/test_history.py",
            "runs/test_notes.py",
            "runs/test_support.py",
            "registry/test_seen.py",
            "registry/remote/test_repair.py",
        ),
    ),
    "files": Group(
        (
            "comparison/files/outputs.py",
            "comparison/files/values.py",
            "comparison/files/tables.py",
            "comparison/files/npy.py",
            "comparison/files/images.py",
        ),
        ("comparison/files",),
    ),
    "checkpoint": Group(
        ("checkpoint/format.py", "checkpoint/reader.py"),
        (
            "checkpoint/test_claims.py",
            "checkpoint/test_format.py",
            "checkpoint/test_format_rows.py",
            "checkpoint/test_reader.py",
            "comparison/test_compare_runs.py",
        ),
    ),
    "pickles": Group(
        ("checkpoint/safe_pickle/load.py", "checkpoint/safe_pickle/arrays.py", "checkpoint/safe_pickle/unpickler.py"),
        ("checkpoint/safe_pickle",),
    ),
    "runs": Group(
        ("runs/verdict_store.py", "runs/store.py", "runs/transfer.py"),
        ("runs", "registry/test_reading.py"),
    ),
    "edges": Group(
        ("environment/pip/wheels.py", "recording/recorder.py"),
        ("environment/pip/test_wheels.py", "recording"),
    ),
}
