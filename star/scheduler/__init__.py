"""From an experiment to finished jobs: the plan, the loop, and where processes run."""
