"""The share of the fuzzing that every run repeats: all seeds, mutations of them, and the whole command."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.running import assert_refused, run
from tests.source.weight_files import TINY_TENSORS, config_bytes, framed, weight_file

from .targets import SEEDS, TARGETS, seeds

# One edit of a seed: at a place, so many bytes are replaced by these.
EDIT = st.tuples(
    st.integers(0, 4000),
    st.integers(0, 8),
    st.binary(max_size=8)
    | st.sampled_from(
        [b'"', b"\\", b"{", b"]", b"-1", b"NaN", b"1e999", b"9" * 30, b"../", b"\x00", b"\xff\xfe", b"null"]
    ),
)


def edited(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Return `content` with the edits made, places taken modulo its length."""
    for place, length, replacement in edits:
        start = place % (len(content) + 1)
        content = content[:start] + replacement + content[start + length :]
    return content


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_keep_the_contract(target: str) -> None:
    """Every input that was worth keeping."""
    assert seeds(target)
    for content in seeds(target):
        TARGETS[target](content)


def test_every_seed_belongs_to_a_target() -> None:
    """No folder is left over."""
    assert {path.name for path in SEEDS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_edited_seeds_keep_the_contract(target: str) -> None:
    """A few hundred a run; docs/evidence/reliability.md tells of the hundred thousands."""

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(seeds(target)), st.lists(EDIT, min_size=1, max_size=5))
    def fuzz(content: bytes, edits: list[tuple[int, int, bytes]]) -> None:
        TARGETS[target](edited(content, edits))

    fuzz()


SHAPES = st.lists(st.sampled_from([0, 1, 3, 4, 6, 10, 2**31, 2**62]), max_size=4)
NAMES = st.sampled_from([*TINY_TENSORS, "lm_head.bias", "x", "", "model", "\x1b[2J", "a" * 900]) | st.text(max_size=12)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(["BF16", "F32", "F8_E4M3", "F4", "C64"]), SHAPES), max_size=14),
    st.lists(EDIT, max_size=2),
)
def test_the_whole_command_inspects_or_refuses_any_checkpoint(
    tensors: dict[str, tuple[str, list[int]]], edits: list[tuple[int, int, bytes]]
) -> None:
    """Whatever lies beside a sound config.json, the model is inspected; no format shows a control character."""
    fuzz_command(tensors, edits)


def fuzz_command(tensors: dict[str, tuple[str, list[int]]], edits: list[tuple[int, int, bytes]]) -> None:
    """Run the command on a folder that holds these tensors, some bytes changed."""
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    small = {name: facts for name, facts in tensors.items() if facts[0] in ("BF16", "F32") and max([0, *facts[1]]) < 20}
    content = weight_file(small) if len(small) == len(tensors) else framed(json.dumps(header).encode())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(config_bytes())
        (Path(folder) / "model.safetensors").write_bytes(edited(content, edits))
        for format_ in ("json", "text"):
            ran = run(folder, "--count-only", "--depth", "0", "--format", format_)
            if ran.code:
                assert_refused(ran, 4)
            assert all(character == "\n" or character.isprintable() for character in ran.out)


PIECES = st.sampled_from(
    [
        *("--lora r=4", "--lora r=0", "--peft {}", "--targets q_proj", "--gpu t4", "--gpu 4900", "--gpu-memory 0GiB"),
        *("--gpu-memory 24", "--batch-size 2", "--batch-size -1", "--quantization nf4", "--double-quant", "--with x"),
        *("--no-autocast-adapter-dtype", "--optimizer sgd", "--", "'", '"', "\\", "\0", "#", "x"),
    ]
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECES | st.text(max_size=6), max_size=3).map(" ".join))
def test_any_options_of_a_comparison_are_taken_or_refused(text: str) -> None:
    """What stands in a --with is options of a recipe, or one line says why not."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(config_bytes())
        ran = run("compare", folder, "--offline", "--seq-len", "8", "--json", "--with", text)
        if ran.code not in (0, 1):
            assert ran.code in (2, 4)
            assert_refused(ran, ran.code)
