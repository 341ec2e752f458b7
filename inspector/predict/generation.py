"""Long generations: which are extrapolated from short ones, and by what request each of these is traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inspector.errors import NotTraceableError
from inspector.records.recipe import Attention, CacheKind, find_prompt_len
from inspector.records.run import Lengths
from inspector.records.steps.decoding import Decoding
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun

if TYPE_CHECKING:
    from inspector.extrapolate import TapeTemplate

__all__ = ["describe_lengths", "extrapolate_generation", "find_most_new_tokens", "is_long"]

# Up to here all steps are traced: two short generations are no fewer.
_LONGEST_TRACED = 64
# Fields of GenerationConfig that look at how many tokens there are or at which they are, and those that keep what each
# step has made.
_COUNTING = (
    *("min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
    *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"),
    "sequence_bias",
)
_KEPT_TO_THE_END = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
# Where the steps do not follow from a few, that many are traced all the same.
_MOST_TRACED = 1024


def is_long(run: ResolvedRun) -> bool:
    """Tell whether a run is a generation that is not to be traced step by step."""
    return run.workload.generates and run.recipe.new_tokens > _LONGEST_TRACED


def extrapolate_generation(
    run: ResolvedRun, lengths: Lengths, trace: Callable[[ResolvedRun], TapeTemplate]
) -> TapeTemplate | None:
    """Return the run of a long generation of a model, None where each step has to be traced.

    `lengths` is what `describe_lengths` says of the model and the run. `trace` returns the run of a short generation.
    Raises NotTraceableError where it is too long to be traced.
    """
    # They load numpy, which short runs that are kept do without.
    from inspector.extrapolate.layers import TooManyEventsError
    from inspector.extrapolate.size_laws import Keys
    from inspector.extrapolate.steps import extrapolate_steps

    recipe, prompt_len = run.request.recipe, find_prompt_len(run.recipe)
    # flash-attn's parts are no ops of their own on the tape, a static cache is as long as the whole generation, and the
    # decoder of an encoder-decoder does not go on from the prompt.
    follows = (
        run.request.extrapolate
        and run.recipe.attention != Attention.FLASH_ATTENTION_2
        and run.recipe.cache != CacheKind.STATIC
        and not lengths.is_encoder_decoder
        and not _counts_tokens(run.recipe.generation or {})
        and not lengths.crosses_border
    )

    def trace_piece(shift: int) -> TapeTemplate:
        return trace(_cut_generation(run, prompt_len + shift))

    keys = Keys(platform=run.platform, prompt_len=prompt_len, group_sizes=lengths.group_sizes)
    try:
        found = extrapolate_steps(trace_piece, recipe.new_tokens, keys) if follows else None
    except TooManyEventsError as error:
        raise NotTraceableError(str(error)) from error
    if found is None and recipe.new_tokens > _MOST_TRACED:
        raise NotTraceableError(
            f"the steps of this generation do not follow from a few, and more than {_MOST_TRACED:,} are not traced: "
            f"use at most {_MOST_TRACED:,} `new_tokens`"
        )
    return found


def find_most_new_tokens(
    run: ResolvedRun, longest: int | None, find_tape: Callable[[ResolvedRun], Sequence[Event]]
) -> int:
    """Return how many tokens a generation may have of which every step is worked out.

    `longest` is how many tokens a sequence of its model may have, None where nothing bounds them, and `find_tape`
    returns the tape of a short generation.
    """
    from inspector.extrapolate.layers import MOST_EVENTS  # as above
    from inspector.extrapolate.steps import PIECE

    def count_events_of_a_step(prompt_len: int) -> int:
        """Return how many events the last but one step of a short generation after a prompt has."""
        tape = find_tape(_cut_generation(run, prompt_len))
        return max(sum(event.step == PIECE - 1 for event in tape), 1)

    prompt_len = find_prompt_len(run.recipe)
    most = MOST_EVENTS // count_events_of_a_step(prompt_len)
    if longest is not None:
        most = min(most, longest - prompt_len)
    # Longer keys are cut into more parts, which a step makes more blocks for.
    last = count_events_of_a_step(prompt_len + max(most - PIECE, 0))
    return min(most, MOST_EVENTS // last)


def _cut_generation(run: ResolvedRun, prompt_len: int) -> ResolvedRun:
    """Return the short generation after a prompt that is traced in place of a long one."""
    from inspector.extrapolate.steps import PIECE  # as above

    recipe = dataclasses.replace(run.request.recipe, prompt_len=prompt_len, new_tokens=PIECE)
    return run.with_request(dataclasses.replace(run.request, recipe=recipe))


def describe_lengths(run: ResolvedRun, config: Any) -> Lengths:
    """Return what of a model's configuration decides how a generation goes on."""
    prompt_len = find_prompt_len(run.recipe)
    return Lengths(
        is_encoder_decoder=bool(config.is_encoder_decoder),
        crosses_border=_crosses_border(config, prompt_len, prompt_len + run.request.recipe.new_tokens),
        group_sizes=_list_group_sizes(config),
    )


def _counts_tokens(decoding: Decoding) -> bool:
    """Tell whether what a step does depends on how many tokens came before, or is kept to the end."""
    keeps = decoding.get("return_dict_in_generate") and any(decoding.get(name) for name in _KEPT_TO_THE_END)
    return bool(keeps) or any(decoding.get(name) for name in _COUNTING)


def _list_parts(config: Any) -> list[Any]:
    """Return a configuration and those in it."""
    return [config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))]


def _list_group_sizes(config: Any) -> tuple[int, ...]:
    """Return how many query heads may share a head of keys in a model: by any of the counts that its parts name."""
    names = [
        (name, value)
        for part in _list_parts(config)
        for name, value in vars(part).items()
        if type(value) is int and value > 0
    ]
    heads = {value for name, value in names if "head" in name and "dim" not in name}
    own = {value for name, value in names if "kv" in name or "key_value" in name}
    return tuple(sorted({1, *(count // shared for count in heads for shared in {1, *own} if not count % shared)}))


def _crosses_border(config: Any, first: int, last: int) -> bool:
    """Tell whether a generation of these lengths has a step that does what those before and after it do not.

    Rotary embeddings of two ranges (longrope) change at a length, and Phi-3 computes its whole cache anew there
    (modeling_phi3.py, `prepare_inputs_for_generation`). Attention in chunks begins a new one.
    """
    for part in _list_parts(config):
        rope = getattr(part, "rope_parameters", None) or getattr(part, "rope_scaling", None) or {}
        nested = rope.values() if isinstance(rope, dict) else ()
        owners = [owner for owner in (vars(part), rope, *nested) if isinstance(owner, dict)]
        lengths = [owner.get("original_max_position_embeddings") for owner in owners]
        if any(owner.get("rope_type") == "longrope" for owner in owners) and any(
            isinstance(length, int) and first <= length <= last for length in lengths
        ):
            return True
        chunk = getattr(part, "attention_chunk_size", None)
        if isinstance(chunk, int) and chunk > 0 and first // chunk != last // chunk:
            return True
    return False
