"""Searches: Optuna asks and is told here alone; what a trial computes are jobs like any other."""
