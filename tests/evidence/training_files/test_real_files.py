"""Every real file is recognised, means the request that it is known to mean, and has nothing passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.errors import UnsupportedModelError
from inspector.records.training_file import Origin
from inspector.training_files.read import ReadFile
from tests.evidence.training_files.page import PAGE, make_page
from tests.evidence.training_files.real_files import RealFile, load_files, read_real_file, to_peft

OF_TORCHTUNE = [known for known in load_files() if known["framework"] == "torchtune"]
READ = [known for known in load_files() if known["framework"] != "torchtune"]
EXPECTED = [known for known in READ if known.get("expected")]
# What no recipe has: the nearest one stands in, and is named among what is not modelled.
STAND_INS = {"adamw_torch_8bit": "adamw_8bit", "kernels-community/vllm-flash-attn3": "flash_attention_2"}
# What the data names as missing, and is modelled by now.
MODELLED_SINCE = (
    *("loss: fused LM head", "no k-bit preparation", "use_liger_kernel", "cut cross-entropy"),
    *("stage dpo", "stage kto", "stage orpo", "stage rm", "reward_model", "fused LoRA kernels"),
)
FIELDS_MODELLED_SINCE = {
    "fsdp",
    "fsdp_config",
    "packing",
    "padding_free",
    "activation_offloading",
    "use_gradient_checkpointing",
    "use_muon",
    *("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_fused_linear_cross_entropy"),
    "use_adam_mini",
    "loraplus_lr_ratio",
    "embedding_learning_rate",
}
NAMES = {"axolotl": "axolotl", "llamafactory": "LLaMA-Factory", "trl": "TRL", "unsloth": "Unsloth"}
NAMES |= {"accelerate": "accelerate", "deepspeed": "DeepSpeed"}


def name(known: RealFile) -> str:
    """Return the name of a case."""
    return f"{known['framework']}:{known['path']}"


@pytest.fixture
def read(request: pytest.FixtureRequest, tmp_path: Path) -> ReadFile:
    """Return a real file as it is read."""
    return read_real_file(request.param, tmp_path)


@pytest.mark.parametrize(("known", "read"), [(item, item) for item in READ], indirect=["read"], ids=map(name, READ))
def test_a_real_file_is_recognised_and_none_of_its_fields_is_unknown(known: RealFile, read: ReadFile) -> None:
    assert read.record.framework == NAMES[known["framework"]]
    assert read.record.unknown == ()
    assert read.record.unread == ()
    stage = {"rm": "reward"}.get(known["stage"], known["stage"])
    assert (read.record.stage or "launch") == stage


@pytest.mark.parametrize("known", OF_TORCHTUNE, ids=map(name, OF_TORCHTUNE))
def test_a_file_of_torchtune_is_told_with_the_options_that_are_nearest(known: RealFile, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="is torchtune's, whose models are its own") as raised:
        read_real_file(known, tmp_path)
    assert f"--batch-size {known['fields']['batch_size']}" in str(raised.value)
    assert "--dtype bfloat16 --gradient-checkpointing" in str(raised.value)


@pytest.mark.parametrize(
    ("known", "read"), [(item, item) for item in EXPECTED], indirect=["read"], ids=map(name, EXPECTED)
)
def test_a_real_file_means_the_request_that_it_is_known_to_mean(known: RealFile, read: ReadFile) -> None:
    expected = known["expected"]
    assert {key: read.settings.get(key) for key in ("model", "dtype", "quantization", "double_quant")} == {
        key: expected[key] for key in ("model", "dtype", "quantization", "double_quant")
    }
    adapter = expected["peft"]
    if adapter is not None and str(adapter["target_modules"]).startswith("all-linear + "):  # linear ones, all of them
        adapter = {**adapter, "target_modules": "all-linear"}
    assert to_peft(read.settings.get("peft")) == adapter
    recipe = {key: STAND_INS.get(value, value) for key, value in expected["recipe"].items()}
    if known["fields"].get("activation_offloading") is True and known["framework"] == "axolotl" and adapter is not None:
        recipe["gradient_checkpointing"] = False  # in its place activations leave (core/builders/base.py)
    own = next((name for name in ("muon", "adam_mini") if known["fields"].get(f"use_{name}")), None)
    recipe |= {"optimizer": own} if own else {}
    found = {key: read.settings.get(key) for key in recipe}
    if found["attention"] is None:  # what the model's class has, sdpa for all of these
        found["attention"] = "sdpa"
    assert found == recipe


@pytest.mark.parametrize(
    ("known", "read"), [(item, item) for item in EXPECTED], indirect=["read"], ids=map(name, EXPECTED)
)
def test_a_file_that_packs_says_that_documents_share_its_rows(known: RealFile, read: ReadFile) -> None:
    fields, row = known["fields"], read.settings["seq_len"]
    documents = max(row // 512, 1) if fields.get("sample_packing") or fields.get("packing") else None
    assert read.settings.get("packing") == (1 if fields.get("padding_free") else documents)


@pytest.mark.parametrize(
    ("known", "read"), [(item, item) for item in EXPECTED], indirect=["read"], ids=map(name, EXPECTED)
)
def test_what_cannot_be_said_of_a_real_file_is_named(known: RealFile, read: ReadFile) -> None:
    named = {item.name for item in read.record.not_modelled}
    missing = [text for text in known["not_modelled_today"] if not text.startswith(MODELLED_SINCE)]
    assert not named or missing
    words = {word.strip(",:") for text in missing for word in text.split()}
    of_packing = {"micro_batch_size", "sequence_len"}  # in the words that explain it
    assert {word for word in words - of_packing - FIELDS_MODELLED_SINCE if word in known["fields"]} <= named


@pytest.mark.parametrize(
    ("known", "read"), [(item, item) for item in EXPECTED], indirect=["read"], ids=map(name, EXPECTED)
)
def test_a_real_file_is_of_the_loss_and_the_preparation_of_its_framework(known: RealFile, read: ReadFile) -> None:
    # axolotl leaves a base alone that it shards.
    axolotls = "none" if read.settings.get("sharding") and read.settings.get("quantization") else "axolotl"
    preparations = {"axolotl": axolotls, "llamafactory": "none", "trl": "none", "unsloth": None}
    assert read.settings.get("preparation") == preparations[known["framework"]]
    if known["framework"] == "trl" and known["stage"] == "sft":
        assert read.settings["loss"] == "fused"


def test_each_value_is_from_the_file_or_a_default_and_never_both(tmp_path: Path) -> None:
    for known in READ:
        fields = read_real_file(known, tmp_path).record.fields
        assert len({item.name for item in fields}) == len(fields)
        if "load" not in known["fields"]:  # no calls
            given = {item.name for item in fields if item.origin is Origin.FILE}
            assert given <= set(known["fields"])


def test_the_page_has_the_share_of_the_fields_that_are_modelled(tmp_path: Path) -> None:
    """`python -m tests.evidence.training_files.page` writes it."""
    assert PAGE.read_text(encoding="utf-8") == make_page(tmp_path)
