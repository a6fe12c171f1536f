"""What is tracked in MLflow: written by the scheduler, read by reports and the board."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its makers of each run
