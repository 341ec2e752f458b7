"""The page of `inspect app` as a Space: `sdk: gradio` runs this file, and the package lies beside it."""

import os

from inspector.cli.main import main

PORT = os.environ.get("GRADIO_SERVER_PORT", "7860")
main(["app", "--host", "0.0.0.0", "--port", PORT, "--workers", "2", "--memory", "5"])  # noqa: S104  # a container
