"""Sweeps: many trainings of a template, with hyperparameters that Optuna chooses."""
