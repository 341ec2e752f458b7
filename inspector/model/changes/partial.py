"""What a recipe changes of a model before anything else: rows that its tables of tokens gain, and which weights train.

`add_tokens` are rows: transformers resizes the embedding, and the head with it (`resize_token_embeddings`). A tokenizer
often has fewer tokens than the table has rows; only what goes beyond these is to be added. The rows train where the
table does: in full fine-tuning, or with an adapter where `modules_to_save` names it.

`train_only` are regular expressions of parameter names: what one of them is found in trains, and all else is frozen.
`last=2` are the last two layers of the text model, `first=2` its first, as LLaMA-Factory's `freeze_trainable_layers`
counts them.

Not covered: what loading holds while a table is copied into the larger one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn
from transformers import PreTrainedModel

from inspector.errors import UsageError, one_line, quoted
from inspector.model.changes.value_head import add_value_head
from inspector.model.patterns import MatchCall, PatternError, check_patterns
from inspector.records.recipe import Recipe

__all__ = ["change_model"]

_LAYERS = re.compile(r"(first|last)=([0-9]{1,6})")
_SEARCH = MatchCall(function="search")


def change_model(model: PreTrainedModel, recipe: Recipe, *, has_adapter: bool) -> PreTrainedModel:
    """Make the changes of a recipe in place and return the model; raise UsageError where it has no such parts.

    A head of values is put on after the adapter, where there is one (`build._attach`).
    """
    if recipe.add_tokens:
        _add_tokens(model, recipe.add_tokens)
    if recipe.train_only is not None:
        _freeze_all_but(model, recipe.train_only)
    if not has_adapter:
        add_value_head(model, recipe)
    return model


def _add_tokens(model: PreTrainedModel, count: int) -> None:
    """Let the tables of tokens have so many rows more."""
    name = type(model).__name__
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise UsageError(f"`add_tokens` makes a table of tokens larger, and {name} has none: drop it.")
    try:
        model.resize_token_embeddings(table.num_embeddings + count, mean_resizing=False)
    except Exception as error:  # classes of any kind have their own way to do it
        raise UsageError(f"`add_tokens`: {name} cannot be resized ({one_line(error, 120)}); drop it.") from error


def _freeze_all_but(model: PreTrainedModel, patterns: Sequence[str]) -> None:
    """Freeze what none of the patterns is found in."""
    names = [name for name, _ in model.named_parameters()]
    wanted = [text for pattern in patterns for text in _list_expressions(model, pattern)]
    try:
        check_patterns([(text, _SEARCH) for text in wanted], names)
    except PatternError as error:
        raise UsageError(f"`train_only` {quoted(error.text, 60)} {error}; correct it.") from error
    expressions = [re.compile(text) for text in wanted]
    found = {name for name in names if any(expression.search(name) for expression in expressions)}
    if not found:
        raise UsageError(
            f"`train_only` matches no parameter of {type(model).__name__}; its names are such as "
            f"{one_line(', '.join(names[:2]), 160)}."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in found and parameter.requires_grad)


def _list_expressions(model: PreTrainedModel, pattern: str) -> Iterator[str]:
    """Yield what to look for in names: the pattern, or the numbers of layers that it stands for."""
    match = _LAYERS.fullmatch(pattern)
    if match is None:
        yield pattern
        return
    count, layers = int(match[2]), getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise UsageError(
            f"`train_only` {pattern}: the config of {type(model).__name__} does not say how many layers it has; give "
            "a pattern of parameter names."
        )
    numbers = range(min(count, layers)) if match[1] == "first" else range(max(0, layers - count), layers)
    yield rf"\.(?:{'|'.join(map(str, numbers))})\." if len(numbers) else r"\.last layers of none\."
