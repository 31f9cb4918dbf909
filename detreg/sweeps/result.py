"""What a sweep returns."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep, which `detreg sweep --json` prints in the form of `to_json`."""

    run_id: str
    study: str
    trials: int
    complete: int
    pruned: int
    failed: int
    best_trial: int
    best_run_id: str
    template: str
    metric: str
    """The score on val by which trials were compared: mAP or segm_mAP."""
    score: float
    """The best trial's, of its best epoch."""
    hyperparameters: dict[str, str]
    """The best trial's that differ from the template's defaults, as text."""
    defaults_score: float | None
    """None where no trial with the defaults is complete."""
    comparison: str
    """The best against the defaults, in a sentence."""
    model_name: str | None
    model_version: str | None
    alias: str | None
    reason: str
    """Why the version got its alias, or why nothing was registered."""

    def to_json(self) -> dict[str, object]:
        """Return the fields by name; the scores have the name of the metric, as `mAP`."""
        content = asdict(self)
        metric = content.pop("metric")
        names = {"score": metric, "defaults_score": f"defaults_{metric}"}
        return {names.get(name, name): value for name, value in content.items()}
