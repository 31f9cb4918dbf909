"""The model that MLflow serves, and how it is logged."""
