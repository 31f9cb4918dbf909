"""MLflow runs and the model registry."""

from detreg.environment import set_mlflow_defaults

# MLflow reads some of its variables while it is imported, which the modules of this package do.
set_mlflow_defaults()
