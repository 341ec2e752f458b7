"""`inspect app` where it cannot be: one line, and nothing left behind. What it does, tests/app has."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from tests.cli.running import assert_refused, run, run_process, script


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run_process(script("inspect"), "app", "--port", str(port))
    assert_refused(refused, 2, f"127.0.0.1:{port} cannot be listened at (address already in use)")


def test_an_address_of_another_machine_is_refused() -> None:
    assert_refused(
        run_process(script("inspect"), "app", "--host", "192.0.2.1"), 2, "192.0.2.1:7860 cannot be listened at"
    )


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="gradio is installed")
def test_without_the_extra_the_command_to_install_it_is_said(tmp_path: Path) -> None:
    """And the folder of the server is gone."""
    refused = run_process(script("inspect"), "app", "--port", "0", environment={"TMPDIR": str(tmp_path)})
    assert_refused(refused, 2, "add it with pip install 'model-inspector[app]'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [("--port", "70000"), ("--workers", "0"), ("--memory", "0.5"), ("--timeout", "x"), ("org/model",)]
)
def test_options_that_cannot_be_are_refused_before_anything_starts(options: tuple[str, ...]) -> None:
    assert_refused(run("app", *options), 2)
