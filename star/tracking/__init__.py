"""What is tracked in MLflow: written by the scheduler, read by reports and the board."""
