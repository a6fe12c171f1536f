"""The pages of the board, one module for each kind."""
