"""`python -m inspector` is the command `inspect`."""

from inspector.cli import main

main()
