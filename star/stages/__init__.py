"""The stages' code: where a run is wired to the parts. `star.pipeline` declares them, and says which function is whose."""
