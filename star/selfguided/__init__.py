"""ST-AR itself (arXiv:2509.15185, section 3.3): masking, teacher, losses, and their weighted sum.

Knows tensors and its own section of the spec; nothing of runs, files or trackers.
"""
