"""The client of this process, pointed at a Hub on loopback and at an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from inspector.source import hub_client, transport

from .loopback_hub import LoopbackHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """Yield a running Hub that the real client talks to instead of huggingface.co.

    The client reads HF_ENDPOINT and HF_HOME once, when it is imported: in this process their places are taken by what
    is read at each call. tests/source/test_environment.py sets the variables themselves, in processes of their own.
    """
    with LoopbackHub() as running:
        monkeypatch.setattr(hub_client, "get_endpoint", lambda: running.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        monkeypatch.setattr(transport, "_PAUSES", (0, 0))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        yield running
    close_session()
