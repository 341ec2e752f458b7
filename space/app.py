"""The page of `inspect app` as a Space: `sdk: gradio` runs this file, and the package lies beside it."""

from inspector.cli.main import main

main(["app", "--host", "0.0.0.0", "--port", "7860", "--workers", "2", "--memory", "5"])  # noqa: S104  # a container
