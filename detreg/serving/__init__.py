"""The served model: packaging it for MLflow, and answering requests. Needs MLflow; the detector does not."""
