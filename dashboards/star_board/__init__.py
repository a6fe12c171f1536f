"""The board: web pages of what a home's ledger, folders and tracker hold, kept up to date in the browser."""
