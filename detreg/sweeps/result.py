"""What a sweep returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep. Its fields are the keys that `detreg sweep --json` prints."""

    run_id: str
    study: str
    trials: int
    complete: int
    pruned: int
    failed: int
    best_trial: int
    best_run_id: str
    template: str
    mAP: float
    """The best trial's on the val split, of its best epoch."""
    hyperparameters: dict[str, str]
    """The best trial's that differ from the template's defaults, as text."""
    defaults_mAP: float | None
    """None where no trial with the defaults is complete."""
    comparison: str
    """The best against the defaults, in a sentence."""
    model_name: str | None
    model_version: str | None
    alias: str | None
    reason: str
    """Why the version got its alias, or why nothing was registered."""
