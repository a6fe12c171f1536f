"""The ledger: a database of jobs, runs and experiments, their history, and the schedulers that own them."""
