"""Sweeps: many trainings of a template, with hyperparameters that Optuna chooses.

- request, plan, result: what the user asked, what will be done, what came of it
- dimension, space, combinations: what is searched, and whether it can be trained
- sweep, finish: the order of a sweep and of its end
- study, storage, samplers, jobs: the trials, in Optuna's database
- pool, worker: the processes
- progress, report: what people see
"""
