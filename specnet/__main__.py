"""`python -m specnet`."""

from specnet.cli.main import main

main()
