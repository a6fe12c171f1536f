"""The stages' code, which connects a run to the parts. `star.pipeline` declares stages and names their functions."""
