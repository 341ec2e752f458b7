"""What a configuration asks for stops where no real model's work goes on, whatever the field is called."""

from __future__ import annotations

import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inspector.errors import UnsupportedModelError
from inspector.model.untrusted.bounds import bound_modules, bound_work
from tests.cli.running import assert_refused, bundled_config, run, written

SECONDS, BYTES = 100, 2**30


def count_for_ever() -> None:
    with bound_work("counting", cpu_seconds=0.05, memory_bytes=BYTES):
        while True:
            pass


def test_a_loop_without_an_end_is_stopped() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^counting takes more than 0\.05 seconds of processor time"):
        count_for_ever()


def test_code_that_catches_what_it_is_told_is_told_again() -> None:
    """Constructors of transformers catch Exception here and there."""
    told = 0
    with bound_work("counting", cpu_seconds=0.05, memory_bytes=BYTES):
        while told < 2:
            try:
                while True:
                    pass
            except UnsupportedModelError:
                told += 1


@pytest.mark.parametrize("count", [10**9, 10**12])
def test_a_list_that_is_made_in_one_step_is_stopped(count: int) -> None:
    """No signal is delivered within such a step: the memory is what is bounded."""
    with (
        pytest.raises(UnsupportedModelError, match=r"^listing takes more than 64\.00 MiB of memory"),
        bound_work("listing", cpu_seconds=SECONDS, memory_bytes=2**26),
    ):
        ["full_attention"] * count


def test_a_tensor_on_the_processor_is_bounded_too() -> None:
    """Rates of stochastic depth are a real tensor of as many values as there are layers."""
    with (
        bound_work("rates", cpu_seconds=SECONDS, memory_bytes=BYTES),
        pytest.raises(RuntimeError, match="allocate memory"),
    ):
        torch.linspace(0, 1, 10**9, device="cpu")


def test_nothing_of_the_bounds_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)
    with bound_work("nothing", cpu_seconds=SECONDS, memory_bytes=BYTES):
        assert resource.getrlimit(resource.RLIMIT_DATA) != before[0]
        assert signal.getitimer(signal.ITIMER_VIRTUAL) != (0.0, 0.0)
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_thread_has_no_timer_and_works_all_the_same() -> None:
    """Signals are the main thread's."""
    found: list[Any] = []

    def work() -> None:
        with bound_work("nothing", cpu_seconds=SECONDS, memory_bytes=BYTES):
            found.append(signal.getitimer(signal.ITIMER_VIRTUAL))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0.0, 0.0)]


def test_a_bound_that_is_closer_already_is_kept() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with bound_work("outer", cpu_seconds=SECONDS, memory_bytes=BYTES):
        outer = resource.getrlimit(resource.RLIMIT_DATA)
        with bound_work("inner", cpu_seconds=100, memory_bytes=2**40):
            assert resource.getrlimit(resource.RLIMIT_DATA) == outer
    assert resource.getrlimit(resource.RLIMIT_DATA) == (soft, hard)


def test_more_parameters_than_any_model_has_are_refused() -> None:
    with bound_modules(), torch.device("meta"), pytest.raises(UnsupportedModelError, match="parameters; correct it"):
        nn.ModuleList(nn.Linear(10**7, 10**7) for _ in range(2))


def test_more_modules_than_any_model_has_are_refused() -> None:
    with bound_modules(), torch.device("meta"), pytest.raises(UnsupportedModelError, match="250,000 modules"):
        nn.ModuleList(nn.Identity() for _ in range(250_001))


@pytest.mark.parametrize(
    ("name", "changes"),
    [("lfm2", {"block_ff_dim": 12_288}), ("qwen2_moe", {"shared_expert_intermediate_size": 20_480})],
)
def test_a_width_is_no_number_of_blocks_or_experts(name: str, changes: dict[str, int], tmp_path: Path) -> None:
    """Fields were once judged by their names, and LFM2-1.2B and Qwen2-57B-A14B refused for these."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 64, "vocab_size": 65_536}
    counts = {"num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 8, "num_experts": 4}
    path = written(tmp_path, {"model_type": name, **sizes, **counts, **changes})
    assert run(path, "--count-only", "--json").report["parameters"]["base"] > 2**27


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 10**12},
        {"hidden_size": 10**12},
        {"intermediate_size": 2**63},
        {"vocab_size": 10**12},
        {"head_dim": 10**15},
    ],
)
def test_a_hostile_size_ends_in_one_line(changes: dict[str, int], tmp_path: Path) -> None:
    fields = {**bundled_config("Qwen/Qwen2.5-0.5B"), **changes}
    assert_refused(run(written(tmp_path, fields), "--count-only"), 4)
