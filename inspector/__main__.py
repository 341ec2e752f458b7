"""`python -m inspector` is the command `inspect`."""

from inspector.cli.main import main

main()
