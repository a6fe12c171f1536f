"""The board: what a home's ledger, folders and tracker hold, as pages that a server makes and a browser keeps up to date."""
