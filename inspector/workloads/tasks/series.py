"""Tasks of series of numbers: what follows, what a series is, what a number goes with it."""

from __future__ import annotations

from typing import Any

import torch

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.tasks.registry import list_arguments, register

__all__: list[str] = []

_SERIES = ("past_values",)


@register("ForPrediction", main=_SERIES)
def _make_forecasts(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make series and what follows them; classes with lags and features of time take those too."""
    config, rows = model.config, recipe.batch_size
    if hasattr(config, "lags_sequence"):
        return _make_lagged(config, rows)
    if not hasattr(config, "num_input_channels"):  # TimesFM: one number at a time
        horizon = getattr(config, "horizon_length", None)
        if not isinstance(horizon, int):
            raise BatchError(f"how far {type(model).__name__} forecasts is not known here")
        frequency = {"freq": Input(shape=(rows,))} if "freq" in list_arguments(model) else {}
        past = Input(shape=(rows, config.context_length), dtype=torch.float32)
        return {"past_values": past, **frequency, "future_values": _make_numbers(rows, horizon)}
    future = _make_numbers(rows, config.prediction_length, config.num_input_channels)
    return {"past_values": _make_past(config, rows), "future_values": future}


@register("ForPretraining", main=_SERIES)
def _make_masked_series(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make series alone: the class masks them itself."""
    return {"past_values": _make_past(model.config, recipe.batch_size)}


@register("ForRegression", main=_SERIES)
def _make_regressions(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make series and the numbers that go with each."""
    config, rows = model.config, recipe.batch_size
    return {"past_values": _make_past(config, rows), "target_values": _make_numbers(rows, config.num_targets)}


@register("ForClassification", "ForTimeSeriesClassification", main=_SERIES)
def _make_series_labels(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make series and a class of each."""
    return {
        "past_values": _make_past(model.config, recipe.batch_size),
        "target_values": Input(shape=(recipe.batch_size,)),
    }


def _make_numbers(*shape: int) -> Input:
    return Input(shape=shape, dtype=torch.float32)


def _make_past(config: Any, rows: int) -> Input:
    """Return series of as many channels as the configuration says."""
    return _make_numbers(rows, config.context_length, config.num_input_channels)


def _make_lagged(config: Any, rows: int) -> Inputs:
    """Return series that reach back as far as the largest lag, with the features of their times."""
    past, future = config.context_length + max(config.lags_sequence), config.prediction_length
    channels = () if config.input_size == 1 else (config.input_size,)
    inputs = {
        "past_values": _make_numbers(rows, past, *channels),
        "past_time_features": _make_numbers(rows, past, config.num_time_features),
        "past_observed_mask": Input(shape=(rows, past, *channels), dtype=torch.float32, value=1),
        "future_values": _make_numbers(rows, future, *channels),
        "future_time_features": _make_numbers(rows, future, config.num_time_features),
    }
    if config.num_static_categorical_features:
        inputs["static_categorical_features"] = Input(shape=(rows, config.num_static_categorical_features))
    if config.num_static_real_features:
        inputs["static_real_features"] = _make_numbers(rows, config.num_static_real_features)
    return inputs
