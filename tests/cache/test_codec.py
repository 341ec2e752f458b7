"""Records as JSON and back: equal, and of no class but a record's."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from inspector.cache.codec import NotKeptError, decode, encode
from inspector.records.model import Role, TensorKind
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.workloads.registry import TRAINING


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, [2.5, "text"], {"a": True, Role.MLP: (), 3: {"b": None}}),
        {TensorKind(dtype="bfloat16", shape=(2, 3), is_embedding=False): 4},
        Request(
            model="org/name", recipe=Recipe(batch_size=3), peft={"peft_type": "LORA", "target_modules": ["q", "v"]}
        ),
        (Notice(code="a", message="b"), frozenset(("x", "y")), {1, 2}),
        TRAINING,
    ],
)
def test_what_is_written_is_read_as_it_was(value: object) -> None:
    """Types of sequences and of keys included."""
    again = decode(json.loads(json.dumps(encode(value))))
    assert again == value
    assert repr(again) == repr(value) or isinstance(value, tuple) or value is TRAINING


@pytest.mark.parametrize("value", [SimpleNamespace(), object, b"bytes", [lambda: None], 1j])
def test_what_is_no_record_is_not_kept(value: object) -> None:
    """A live model, for one."""
    with pytest.raises(NotKeptError):
        encode(value)


@pytest.mark.parametrize(
    "text",
    [
        '[6,"os:system","ls"]',
        '[6,"recipe:Any"]',
        '[6,"...os:path"]',
        '[6,"notice:Notice"]',
        '[6,"notice:Notice",1,2,3]',
        '[5,"model:Role","none"]',
        '[5,"notice:Notice","a"]',
        "[6,7]",
        "[9]",
        "[]",
        '[4,["a"]]',
        "[3,[1,2]]",
    ],
)
def test_what_was_not_written_here_is_refused(text: str) -> None:
    """A file can name no class but a record's, and makes nothing run."""
    with pytest.raises(NotKeptError):
        decode(json.loads(text))
