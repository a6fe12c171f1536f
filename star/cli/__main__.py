"""`python -m star.cli`: the same as `star-exp`."""

from star.cli.main import main

main()
