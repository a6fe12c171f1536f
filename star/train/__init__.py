"""Training the transformer: the step, the optimizer, the checkpoints."""
