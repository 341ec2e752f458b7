"""The denoiser of a pipeline as a model of transformers: its class of diffusers is a child by the name of its folder.

Names are so those of the pipeline. The forward pass takes what the class does, and makes a tensor. Which classes have a
step is said by `inspector.workloads.tasks.denoising`; others are counted, with their adapters.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from inspector.errors import UsageError
from inspector.model.changes.configured import change_configuration
from inspector.model.changes.partial import change_model
from inspector.model.diffusion.classes import find_diffusers_class, import_diffusers
from inspector.model.diffusion.conditions import find_text_length
from inspector.model.diffusion.targets import name_targets
from inspector.model.skeleton import build_skeleton, choose_dtype
from inspector.records.diffusion import StoredPipeline
from inspector.records.model import ModelFacts
from inspector.records.request import Request
from inspector.records.source import SourceFiles

__all__ = ["Denoiser", "DenoiserConfig", "describe_denoiser", "make_scheduler", "read_denoiser"]

# What an encoder of images makes smaller, where the pipeline has no such part.
_SCALE = 8


class DenoiserConfig(PretrainedConfig):
    """What a denoiser is built from: its class and its fields, and what its pipeline says of latents and of text."""

    model_type = "diffusers"

    def __init__(self, **fields: Any) -> None:
        self.component: str = fields.pop("component", "unet")
        self.class_name: str = fields.pop("class_name", "UNet2DConditionModel")
        self.fields: dict[str, Any] = fields.pop("fields", {})
        self.scale: int = fields.pop("scale", _SCALE)
        self.text_length: int = fields.pop("text_length", 0)
        self.encoders: list[str] = fields.pop("encoders", [])
        self.prediction_type: str = fields.pop("prediction_type", "epsilon")
        super().__init__(**fields)


class Denoiser(PreTrainedModel):
    """A denoiser with its training loss."""

    config_class = DenoiserConfig
    main_input_name = "latents"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        self.add_module(config.component, find_diffusers_class(config.class_name).from_config(config.fields))
        self.post_init()  # type: ignore[no-untyped-call]  # of transformers

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights as they are."""

    def get_input_embeddings(self) -> None:  # type: ignore[override]  # there is none
        """Return none: there are no tokens."""

    def get_output_embeddings(self) -> None:
        """Return none."""

    def forward(self, *inputs: Any, **conditions: Any) -> Tensor:
        """Return what the denoiser makes of noisy latents, a timestep for each, and what it is conditioned on."""
        predicted: Tensor = getattr(self, self.config.component)(*inputs, return_dict=False, **conditions)[0]
        return predicted


def make_scheduler(model: Denoiser, *, flows: bool = False) -> Any:
    """Return the scheduler of a denoiser's noise on the CPU, as a script makes it; `flows` where noise flows."""
    package = import_diffusers()
    with torch.device("cpu"):
        if flows:
            return package.FlowMatchEulerDiscreteScheduler()
        return package.DDPMScheduler(prediction_type=model.config.prediction_type)


def read_denoiser(pipeline: StoredPipeline) -> tuple[DenoiserConfig, type[Denoiser]]:
    """Return the configuration and the class of a pipeline's denoiser; UnsupportedModelError without diffusers."""
    stored = pipeline.denoiser
    find_diffusers_class(stored.class_name)
    others = {item.name: item.config for item in pipeline.components}
    channels = others.get("vae", {}).get("block_out_channels")
    config = DenoiserConfig(
        component=stored.name,
        class_name=stored.class_name,
        fields={name: value for name, value in stored.config.items() if not name.startswith("_name_or")},
        scale=2 ** (len(channels) - 1) if isinstance(channels, (list, tuple)) and len(channels) < 9 else _SCALE,
        text_length=find_text_length(pipeline),
        encoders=[item.name for item in pipeline.components if "encoder" in item.name or item.name == "vae"],
        prediction_type="v_prediction" if pipeline.predicts_velocity else "epsilon",
    )
    # diffusers loads in float32 whatever is stored, where nobody asks for another dtype.
    config.dtype = torch.float32
    config.architectures = [stored.class_name]
    return config, _name_class(stored.class_name)


def describe_denoiser(request: Request, files: SourceFiles) -> tuple[Callable[[], PreTrainedModel], ModelFacts, Any]:
    """Return what builds the denoiser of a pipeline, anew each time, what it is, and the adapter that is asked for.

    Raises UsageError for what a request says of models of transformers alone.
    """
    assert files.pipeline is not None
    for name in ("model_class", "quantization"):
        if getattr(request, name) is not None:
            raise UsageError(f"`{name}` is for models of transformers, and this is a pipeline of diffusers: drop it.")
    config, model_class = read_denoiser(files.pipeline)
    change_configuration(config, model_class, request.recipe)
    dtype, _ = choose_dtype(config, request.dtype, None)
    facts = ModelFacts(
        id=files.id,
        revision=files.revision,
        model_class=model_class.__name__,
        model_type=config.model_type,
        dtype=str(dtype).removeprefix("torch."),
        source=files.served_from,
        adapter_id=None,
    )

    def build() -> PreTrainedModel:
        model = build_skeleton(copy.deepcopy(config), model_class, dtype, files.id)
        return change_model(model, request.recipe, has_adapter=request.peft is not None)

    return build, facts, name_targets(request.peft, files.pipeline.denoiser.class_name)


@functools.cache
def _name_class(name: str) -> type[Denoiser]:
    """Return the class of denoisers under the name that diffusers has for one."""
    return type(name, (Denoiser,), {"__module__": __name__, "__doc__": Denoiser.__doc__})
