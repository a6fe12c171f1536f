"""Searches: all calls of Optuna's ask and tell; what a trial computes are jobs like any other."""
