"""`python -m reprokit`."""

from reprokit.cli.main import main

main()
