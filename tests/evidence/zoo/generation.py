"""Which models generate: every one of the catalogue, and every type that transformers has a class for which generates.

    python -m tests.evidence.zoo.generation FILE [TYPE ...]

Each is asked for three tokens after 24, and its answer noted in FILE at once, so that a run that was stopped goes on
where it was. Models of the catalogue are whole; those of transformers have the configuration that their class has by
default, with four layers at most where it can be cut so. Named types and models alone run again. Not part of the suite:
it takes half an hour.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto import modeling_auto

from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.resolve import resolve_run
from inspector.runtime.quiet import silence_output
from inspector.source.catalogue import list_ids, load_model

_MAPPINGS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
)
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_MOST_LAYERS = 4
_SECONDS = 60


def list_cases() -> list[tuple[str, str]]:
    """Return names with the class to build: models of the catalogue with none, types of transformers."""
    cases = dict.fromkeys(list_ids(), "")
    for mapping in _MAPPINGS:
        for kind, name in getattr(modeling_auto, mapping).items():
            cases.setdefault(kind, name if isinstance(name, str) else name[0])
    return list(cases.items())


def shorten(config: Any) -> Any:
    """Return a configuration with few layers, those in it included."""
    for key, value in list(vars(config).items()):
        if key in _LAYERS and isinstance(value, int):
            setattr(config, key, min(value, _MOST_LAYERS))
        elif key in ("layer_types", "layers_block_type") and isinstance(value, list):
            setattr(config, key, value[:_MOST_LAYERS])
        elif isinstance(value, transformers.PretrainedConfig):
            shorten(value)
    return config


def generate(name: str, model_class: str) -> dict[str, Any]:
    """Return what a generation of one model takes and keeps, or why there is none."""
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    warnings.filterwarnings("ignore")
    if not model_class:
        return {"class": "", **predict(name)}
    found: dict[str, Any] = {}
    for change in (shorten, lambda config: config):
        try:
            with silence_output():
                config = change(transformers.AutoConfig.for_model(name))
        except Exception as error:  # what cannot be cut
            found = {"error": f"{type(error).__name__}: {error}"[:400]}
            continue
        config.architectures = [model_class]
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = 0
        found = predict(config)
        if "error" not in found:
            break
    return {"class": model_class, **found}


def predict(model: Any) -> dict[str, Any]:
    """Return what the generation of a model takes, or the error that it ends with."""
    try:
        request = Request(model=model, offline=True, workload="generate", recipe=Recipe(prompt_len=24, new_tokens=3))
        run = resolve_run(request, None, {})
        predictor = Predictor(load_model(model) if isinstance(model, str) else None)
        with silence_output():
            prediction = predictor.predict(run)
            facts = predictor.describe_cache(run)
    except Exception as error:  # whatever 300 classes raise is what is looked for
        return {"error": f"{type(error).__name__}: {error}"[:400]}
    kinds = None if facts is None else [layer.kind.value for layer in facts.layers]
    return {"peak": prediction.peak_allocated_bytes, "kinds": kinds}


def generate_apart(name: str, model_class: str) -> dict[str, Any]:
    """Return the same from a process of its own, which ends where its time is over."""
    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: send.send(generate(name, model_class)))
    process.start()
    send.close()
    try:
        result: dict[str, Any] = receive.recv()
    except EOFError:
        result = {"class": model_class, "error": f"more than {_SECONDS} s"}
    process.join()
    return result


def main(path: Path, names: list[str]) -> None:
    """Run what has not run yet, or what is named."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, model_class in list_cases():
        if name not in names if names else name in found:
            continue
        found[name] = generate_apart(name, model_class)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, {key: value for key, value in found[name].items() if key != "class"}, flush=True)
    works = sum("error" not in item for item in found.values())
    print(f"{works} of {len(found)} generate")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
