"""GaLore in training files: which optimizer stands for the fields of a framework."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.training_files.read import read_training_file

LLAMA_FACTORY = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: full\nuse_galore: true\ncutoff_len: 64\n"
AXOLOTL = "base_model: a/b\nmicro_batch_size: 1\nsequence_len: 64\ndatasets: []\noptimizer: galore_adamw\n"


@pytest.mark.parametrize(
    ("text", "optimizer", "arguments"),
    [
        (LLAMA_FACTORY, "galore_adamw", "rank=16,update_proj_gap=200,scale=2.0,proj_type=std"),
        (LLAMA_FACTORY + "galore_rank: 64\n", "galore_adamw", "rank=64,update_proj_gap=200,scale=2.0,proj_type=std"),
        (LLAMA_FACTORY + "galore_layerwise: true\n", "adamw_torch_fused", None),
        (AXOLOTL, "galore_adamw", None),
        (AXOLOTL + "optim_args:\n  rank: 64\n  scale: 0.5\n", "galore_adamw", "rank=64,scale=0.5"),
    ],
)
def test_the_fields_of_galore_name_its_adamw(text: str, optimizer: str, arguments: str | None, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    read = read_training_file(str(path))
    assert read is not None
    settings = read.settings
    assert (settings.get("optimizer"), settings.get("optim_args")) == (optimizer, arguments)
