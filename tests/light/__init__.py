"""Jobs without torch: the real scheduler, executors and worker protocol around stages that only pretend to work."""
