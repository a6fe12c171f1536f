"""Turns an experiment into finished jobs: plans them, schedules them, and runs them on executors."""
