"""The command line, `star-exp`."""
