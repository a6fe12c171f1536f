"""The LlamaGen transformer and how to sample from it."""
