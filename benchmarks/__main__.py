"""Run the named benchmarks, or all of them: `python -m benchmarks [NAME...]`."""

import importlib
import sys

NAMES = (
    "agreement",
    "vdw_mismatches",
    "torsion_mmff94",
    "minima_relaxed",
    "profiles_relaxed",
    "prediction_speed",
    "training_cost",
    "export_readers",
    "fragment_sharing",
    "kills",
    "scale",
    "dask_workers",
    "prefect_events",
    "store_speed",
    "qm_faults",
    "qm_cost",
    "torsion_drives",
    "ablation",
)


def main() -> None:
    """Run each benchmark's `main` in turn; each prints its figures, or why it is skipped."""
    unknown = set(sys.argv[1:]) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
