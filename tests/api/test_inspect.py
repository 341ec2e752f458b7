"""What `inspect` takes in Python: natural types, one line for every other, and modules of any kind on meta."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import inspector
from inspector.errors import InspectorError, UsageError
from inspector.records.model import Role
from inspector.records.recipe import Recipe
from tests.cli.running import SMALL, bundled_config, written

from .arguments import LORA, tiny_llama

SHORT = Recipe(seq_len=16)


def fit_of(**arguments: Any) -> list[tuple[str, int]]:
    """Return the GPUs of a report with their memory."""
    report = inspector.inspect(tiny_llama(), recipe=SHORT, advice=False, **arguments)
    return [(verdict.gpu, verdict.memory_bytes) for verdict in report.fit or ()]


def test_none_and_an_empty_list_are_no_gpu() -> None:
    assert fit_of() == fit_of(gpu=None, gpu_memory=None) == fit_of(gpu=[], gpu_memory=()) != []


def test_a_gpu_and_a_list_of_one_are_the_same() -> None:
    assert fit_of(gpu="4090") == fit_of(gpu=["4090"]) == fit_of(gpu=("4090",)) != fit_of()


def test_memory_is_given_in_bytes_or_as_text() -> None:
    assert [size for _, size in fit_of(gpu_memory=24 * 2**30)] == [size for _, size in fit_of(gpu_memory=["24GiB"])]
    assert fit_of(gpu_memory=24 * 2**30) == [("24.00 GiB", 24 * 2**30)]
    assert [size for _, size in fit_of(gpu_memory=[8 * 10**9, "8GB"])] == [8 * 10**9, 8 * 10**9]


def test_a_recipe_is_given_as_a_mapping_of_its_fields() -> None:
    by_mapping = inspector.inspect(tiny_llama(), recipe={"seq_len": 16, "optimizer": "sgd"})
    assert by_mapping == inspector.inspect(tiny_llama(), recipe=Recipe(seq_len=16, optimizer="sgd"))


def test_a_class_and_a_dtype_are_given_as_objects_or_by_name() -> None:
    by_object = inspector.inspect(tiny_llama(), model_class=LlamaForCausalLM, dtype=torch.bfloat16, count_only=True)
    by_name = inspector.inspect(tiny_llama(), model_class="LlamaForCausalLM", dtype="bfloat16", count_only=True)
    assert by_object == by_name
    assert by_object.parameters.dtypes.keys() == {"bfloat16"}


def test_a_path_is_given_as_an_object(tmp_path: Path) -> None:
    path = Path(written(tmp_path, bundled_config(SMALL)))
    by_path = inspector.inspect(path, count_only=True, offline=True)
    assert by_path == inspector.inspect(str(path), count_only=True, offline=True)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"gpu": 4090}, "`gpu` is 4090 (int); give a name"),
    ({"gpu": ["4090", None]}, "`gpu` is None; give a name"),
    ({"gpu": {"4090": 2}}, "`gpu` is of type 'dict'; give a name"),
    ({"gpu_memory": 24.5}, "`gpu_memory` is 24.5 (float); give text with a unit"),
    ({"gpu_memory": True}, "`gpu_memory` is True (bool); give text with a unit"),
    ({"gpu_memory": 0}, "`gpu_memory` 0 (int) is not the memory of a GPU; give more than 0"),
    ({"gpu_memory": 2**60}, "is not the memory of a GPU; give more than 0"),
    ({"recipe": {"seqlen": 3}}, "`recipe` has no setting 'seqlen'; did you mean seq_len?"),
    ({"recipe": {3: 3}}, "`recipe` has no setting '3'; use batch_size"),
    ({"recipe": {"seq_len": "128"}}, "`seq_len` is '128' (str); give an integer"),
    ({"model_class": 3}, "`model_class` is 3 (int); give text"),
    ({"model_class": nn.Linear}, "no model class 'Linear'; name one"),
    ({"dtype": 16}, "`dtype` is 16 (int); use one of auto"),
    ({"dtype": torch.int8}, "`dtype` 'int8' is not known;"),
    ({"quantization": 4}, "`quantization` is 4 (int); use one of none"),
    ({"double_quant": "yes"}, "`double_quant` is 'yes' (str); give True or False"),
    ({"fit": "batch_size"}, "`fit` 'batch_size' is not known; did you mean batch-size?"),
    ({"revision": 3}, "`revision` is 3 (int); give text"),
    ({"depth": -1}, "`depth` is -1 (int); give an integer of at least 0"),
    ({"depth": 2.0}, "`depth` is 2.0 (float); give an integer of at least 0"),
    ({"offline": "no"}, "`offline` is 'no' (str); give True or False"),
    ({"peft": 16}, "`peft` is 16 (int); give a peft.PeftConfig"),
    ({"peft": object()}, "`peft` is of type 'object'; give a peft.PeftConfig"),
    ({"peft": {"peft_type": 3}}, "no peft_type: add one"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), WRONG, ids=[f"{index} {next(iter(arguments))}" for index, (arguments, _) in enumerate(WRONG)]
)
def test_a_wrong_type_is_one_line_that_names_the_argument_and_what_it_may_be(
    arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        inspector.inspect(tiny_llama(), **arguments)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "model", [None, 3, b"gpt2", ["gpt2"], LlamaForCausalLM, object()], ids=lambda value: type(value)
)
def test_what_is_no_model_is_one_line_that_says_what_is(model: Any) -> None:
    with pytest.raises(UsageError, match=r"^`model` is .*; give a Hub id"):
        inspector.inspect(model, offline=True)


def test_an_adapter_on_weights_that_it_cannot_read_is_refused() -> None:
    """SHiRA draws positions in matrices, which packed weights are not: preparing them once raised a RuntimeError."""
    shira = {"peft_type": "SHIRA", "r": 2, "target_modules": ["q_proj"]}
    with pytest.raises(UsageError, match="weights in float, and those of LlamaForCausalLM are quantized: drop"):
        inspector.inspect(tiny_llama(), peft=shira, quantization="nf4")


@pytest.mark.parametrize("method", sorted(peft.PEFT_TYPE_TO_CONFIG_MAPPING, key=str), ids=lambda method: method.value)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.one_of(3)
def test_every_method_of_peft_on_packed_weights_is_counted_or_refused(method: Any, quantization: str) -> None:
    """Whatever PEFT's code does with weights that are not what it expects is one line of ours."""
    asked = {"peft_type": method.value, "target_modules": ["q_proj", "v_proj"], "num_virtual_tokens": 2}
    said = ""
    try:
        inspector.inspect(tiny_llama(), peft=asked, quantization=quantization, count_only=True)
    except InspectorError as error:
        said = str(error)
    assert said.isprintable()


class Tower(nn.Module):
    """A module of nobody's: an embedding tied to a head, a frozen scale, a norm in half precision, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.LayerNorm(4, dtype=torch.bfloat16)
        self.scale = nn.Parameter(torch.ones(7), requires_grad=False)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.arange(5))


def tower() -> Tower:
    """Return the module on meta."""
    with torch.device("meta"):
        return Tower()


def test_a_module_that_is_no_transformers_model_is_counted() -> None:
    """Embedding 10 x 4, three layers of 4 x 4 and 4, a norm of 4 and 4 in two bytes each, a scale of 7, 5 positions."""
    report = inspector.inspect(tower())
    census = report.parameters
    assert (census.base, census.total) == (40 + 60 + 8 + 7,) * 2
    assert (census.trainable, census.frozen) == (40 + 60 + 8, 7)
    assert census.dtypes == {"float32": 4 * (40 + 60 + 7), "bfloat16": 2 * 8}
    assert (census.buffers, census.buffer_bytes) == (5, 40)
    assert census.tied == (("embedding.weight", "head.weight"),)
    assert census.groups[Role.EMBEDDING] == 40
    assert [(row.name, row.repeat, row.count) for row in census.tree] == [
        ("", 1, 115),
        ("embedding", 1, 40),
        ("layers.0-2", 3, 60),
        ("norm", 1, 8),
        ("head", 1, 0),
    ]
    assert (report.model.model_class, report.model.dtype) == ("Tower", "float32")
    assert report.training is None
    (notice,) = report.warnings
    assert notice.code == "not-traced"
    assert "Tower is not a transformers model" in notice.message
    assert report.static is not None
    assert report.static.full.gradients_bytes == 4 * (40 + 60) + 2 * 8
    assert "<table" in report._repr_html_()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"gpu": "4090", "fit": "batch-size"}, UsageError),
        ({"peft": LORA}, UsageError),
        ({"quantization": "nf4"}, UsageError),
    ],
    ids=str,
)
def test_what_needs_a_transformers_model_is_refused_for_other_modules(
    arguments: dict[str, Any], error: type[InspectorError]
) -> None:
    with pytest.raises(error):
        inspector.inspect(tower(), **arguments)


def test_a_named_card_has_a_verdict_on_a_live_object_that_says_why_nothing_is_known() -> None:
    """Silence would read as a yes."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(tiny_llama())
        adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules="all-linear"))
    for model, why in ((tower(), "not a transformers model"), (adapted, "pass its base model")):
        report = inspector.inspect(model, gpu="4090")
        assert report.fit is not None
        (verdict,) = report.fit
        assert (verdict.outcome.value, verdict.fits) == ("not known", None)
        assert verdict.reason is not None
        assert why in verdict.reason
        assert [notice.code for notice in report.warnings].count("not-traced") == 1


@pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.LazyLinear(2), nn.LazyBatchNorm1d()])
def test_modules_that_hold_data_or_have_no_shape_yet_are_refused(module: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"torch\.device\('meta'\)|no shape before it has run"):
        inspector.inspect(module)


def test_a_module_without_parameters_is_counted_too() -> None:
    assert inspector.inspect(nn.ReLU()).parameters.total == 0


def test_an_adapter_that_is_on_a_module_already_is_counted() -> None:
    with torch.device("meta"):
        attached = peft.get_peft_model(
            nn.Sequential(nn.Linear(4, 8)), peft.LoraConfig(r=2, target_modules=["0"]), low_cpu_mem_usage=True
        )
    report = inspector.inspect(attached)
    assert (report.parameters.base, report.parameters.trainable) == (40, 2 * (4 + 8))


def test_a_transformers_model_on_meta_is_traced_as_its_configuration_is() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_llama())
    live = inspector.inspect(model, recipe=SHORT).training
    named = inspector.inspect(tiny_llama(), recipe=SHORT).training
    assert live is not None
    assert live == named


def test_a_serving_engine_takes_its_options_as_a_mapping_or_a_record() -> None:
    """The fields have the engine's own names; a misspelt one says what was meant."""
    options: dict[str, Any] = {"engine": "sglang", "context_length": 4096, "max_running_requests": 2}
    by_mapping = inspector.inspect(SMALL, serving=options, gpu="4090", offline=True)
    by_record = inspector.inspect(SMALL, serving=inspector.ServingOptions(**options), gpu="4090", offline=True)
    assert by_mapping.serving is not None
    assert by_mapping.serving == by_record.serving
    assert by_mapping.training is None
    for serving, said in (
        ({"engine": "vllm", "max_num_seq": 8}, "did you mean max_num_seqs"),
        ({"max_num_seqs": 8}, "names no engine"),
        ("vllm", "give ServingOptions"),
    ):
        with pytest.raises(inspector.UsageError, match=said):
            inspector.inspect(SMALL, serving=serving, offline=True)


@pytest.mark.parametrize("function", [inspector.inspect, inspector.plan, inspector.compare, inspector.measure])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": 4}, 'part of the recipe: recipe={"batch_size": 4}'),
        ({"optimizer": "sgd"}, 'recipe={"optimizer": "sgd"}'),
        ({"targets": ["q_proj"]}, "part of the adapter: peft=LoraOptions(targets=...)"),
        ({"lora": {"r": 8}}, "in Python it is peft=LoraOptions(r=16)"),
        ({"gpus": 8}, "in Python it is gpu_count=8"),
        ({"seq_length": 2048}, 'did you mean recipe={"seq_len": 2048}?'),
        ({"quantisation": "nf4"}, "did you mean quantization?"),
        ({"zzz": 1}, "use model, "),
    ],
)
def test_a_keyword_that_a_function_lacks_is_refused_with_where_it_belongs(
    function: Any, given: dict[str, Any], says: str
) -> None:
    """It is an error of the package, which whoever catches these catches, too."""
    with pytest.raises(UsageError) as caught:
        function([SMALL, SMALL] if function is inspector.compare else SMALL, **given)
    assert str(caught.value).startswith(f"{function.__name__}() has no argument ")
    assert says in str(caught.value)
