"""Whether the tests notice: the numerics are broken in thousands of small ways, and for each way a test must fail.

`make mutants` runs it and writes docs/mutants.md; `judged.yaml` says of what survives why that changes no result.
"""
