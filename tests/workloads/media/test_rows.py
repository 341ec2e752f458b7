"""Rows of text and images: placeholders, what goes with them, and what the report says of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers

import inspector
from inspector.records.memory import RowMedia
from inspector.workloads.batch import find_media, make_batch_inputs
from inspector.workloads.inputs import BatchError, Input
from tests.trace.small_models import IMAGE_TOKEN, RECIPE, build

SECOND = dataclasses.replace(RECIPE, images=2, seq_len=32, padding=True)


@pytest.fixture(scope="module")
def qwen() -> transformers.PreTrainedModel:
    """Return a small model of the native kind, without data."""
    model: transformers.PreTrainedModel = build("meta", "qwen2_5_vl")[0]
    return model


def inputs_of(model: transformers.PreTrainedModel, recipe: inspector.Recipe) -> dict[str, Input]:
    """Return the tensors of a batch."""
    return {name: item for name, item in make_batch_inputs(model, recipe).items() if isinstance(item, Input)}


def test_each_image_has_its_placeholders_and_text_between_them(qwen: transformers.PreTrainedModel) -> None:
    batch = inputs_of(qwen, SECOND)
    ids, types, labels = (batch[name].on("cpu") for name in ("input_ids", "mm_token_type_ids", "labels"))
    assert ((ids == IMAGE_TOKEN) == types.bool()).all()
    assert (labels[types.bool()] == -100).all()
    groups = torch.unique_consecutive(types[0]).tolist()
    assert groups == [0, 1, 0, 1, 0]
    assert batch["attention_mask"].on("cpu")[-1, -1] == 0
    assert labels[-1, -1] == -100


def test_a_row_that_is_too_short_for_its_images_says_how_long_it_has_to_be(qwen: transformers.PreTrainedModel) -> None:
    with pytest.raises(BatchError, match=r"take 12 of the 13 tokens of a sequence.*use `seq_len=64`"):
        make_batch_inputs(qwen, dataclasses.replace(SECOND, seq_len=13))


def test_no_images_is_text_alone(qwen: transformers.PreTrainedModel) -> None:
    recipe = dataclasses.replace(RECIPE, images=0)
    assert find_media(qwen, recipe) is None
    assert set(inputs_of(qwen, recipe)) == {"input_ids", "labels"}


def test_images_are_refused_where_nothing_is_known_of_them() -> None:
    model = build("meta", "llama")[0]
    with pytest.raises(BatchError, match="use `images=0`"):
        make_batch_inputs(model, dataclasses.replace(RECIPE, images=1))


def report_of(**recipe: object) -> inspector.Report:
    """Return the report on a small LLaVA."""
    config = transformers.LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        text_config=transformers.LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=64
        ),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        ),
        image_token_index=60,
        dtype="float32",
    )
    return inspector.inspect(config, recipe=recipe)


def test_the_report_says_how_many_tokens_an_image_takes_and_what_was_assumed() -> None:
    report = report_of(seq_len=32)
    assert report.training is not None
    assert report.training.media == RowMedia(kind="images", count=1, tokens=4)
    assert report.training.lower_bound is None
    codes = {notice.code: notice.message for notice in report.warnings}
    assert "no-image" not in codes
    assert "`images=0` is text alone" in codes["media-assumed"]


def test_trained_parameters_without_a_gradient_are_listed_with_their_bytes() -> None:
    with_images, text_alone = report_of(seq_len=32).training, report_of(seq_len=32, images=0).training
    assert with_images is not None
    assert text_alone is not None
    assert with_images.without_gradient is not None
    assert text_alone.without_gradient is not None
    # LLaVA takes the features before the last layer of the tower, and so neither that layer nor the norm behind it.
    unused = {item.name.rpartition(".")[0] for item in with_images.without_gradient}
    assert {name.split("vision_tower.")[-1].split(".")[0] for name in unused} <= {
        "encoder",
        "post_layernorm",
        "vision_model",
    }
    tower = sum(item.parameters for item in text_alone.without_gradient)
    assert tower > sum(item.parameters for item in with_images.without_gradient)
    assert all(item.bytes == 4 * item.parameters for item in text_alone.without_gradient)
    assert text_alone.media is None


def test_a_tower_that_refuses_an_image_leaves_text_alone_unless_images_were_asked_for() -> None:
    model = build("meta", "llava")[0]
    model.config.vision_config.image_size = 12  # no multiple of its patches, and not what its positions are for
    assert find_media(model, dataclasses.replace(RECIPE, image_size=None)) is None
    with pytest.raises(ValueError, match="12"):
        find_media(model, dataclasses.replace(RECIPE, images=1))


def test_a_row_of_the_default_length_grows_until_it_holds_its_images() -> None:
    report = report_of(images=300)
    assert report.training is not None
    assert report.training.recipe.seq_len == 2048
    assert "seq-len-lengthened" in {notice.code for notice in report.warnings}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"image_size": "0x10"}, "sides of 1 to 16,384 pixels"),
        ({"image_size": "1000000x10"}, "sides of 1 to 16,384 pixels"),
        ({"image_size": "large"}, 'such as "640x480"'),
        ({"images": 10**6}, "at most 1,024"),
        ({"images": True}, "images"),
        ({"audio_seconds": 10**9}, "at most 36,000"),
    ],
)
def test_images_and_sound_out_of_their_range_are_refused_in_one_line(recipe: dict[str, object], message: str) -> None:
    with pytest.raises(inspector.UsageError, match=message) as refused:
        inspector.Recipe(**recipe)  # type: ignore[arg-type]  # values of any kind
    assert "\n" not in str(refused.value)


def test_images_of_llama_4_are_traced_with_checkpointing_and_mixed_precision() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    vision = {**sizes, "intermediate_size": 128, "image_size": 16, "patch_size": 4, "vision_output_dim": 48}
    vision |= {"projector_input_dim": 48, "projector_output_dim": 48}
    text = {**sizes, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48, "intermediate_size_mlp": 48}
    text |= {"num_local_experts": 2, "vocab_size": 128, "pad_token_id": 0}
    config = transformers.Llama4Config(vision_config=vision, text_config=text, image_token_index=9)
    config.architectures = ["Llama4ForConditionalGeneration"]
    recipe = {"images": 1, "seq_len": 256, "gradient_checkpointing": True, "mixed_precision": "bf16"}
    traced = inspector.inspect(config, dtype="bfloat16", recipe=recipe)
    assert traced.training is not None
    assert traced.training.media is not None
    # 640 x 480 pixels in tiles of 16 x 16: 3 x 4 and the whole one, four tokens each.
    assert traced.training.media.tokens == 13 * 4
