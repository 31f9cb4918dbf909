"""What is done with a model that already exists; one module for each task.

They import what they need at their top, so that predicting does not load what only exporting needs.
"""
