"""Trained parameters that nothing reads are named."""

from __future__ import annotations

import peft
import transformers

import inspector
from inspector.records.memory import WithoutGradient


def test_a_copy_of_t5s_shared_table_that_nothing_reads_is_named() -> None:
    """PEFT copies the table, and encoder and decoder go on reading the first one."""
    config = transformers.T5Config(
        architectures=["T5ForConditionalGeneration"],
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        vocab_size=100,
        decoder_start_token_id=0,  # type: ignore[call-arg]  # every configuration takes it
        dtype="float32",
    )
    adapter = peft.LoraConfig(r=4, target_modules=["q", "v"], modules_to_save=["shared"])
    report = inspector.inspect(config, peft=adapter, recipe={"seq_len": 16})
    assert report.training is not None
    copy = WithoutGradient(name="shared.modules_to_save.default.weight", parameters=100 * 32, bytes=100 * 32 * 4)
    assert report.training.without_gradient == (copy,)
    assert "no-gradient" in {notice.code for notice in report.warnings}
