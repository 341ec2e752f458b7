"""How the next token is chosen: the fields of transformers' GenerationConfig, and which of them cannot be traced.

Names and values are transformers' own, as a generation_config.json has them. What is not traced reads values that
tensors without data do not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inspector.checks import describe_value, find_nearest_names
from inspector.errors import UsageError, quoted

__all__ = [
    "OWN_SETTINGS",
    "Decoding",
    "check_decoding",
    "describe_decoding",
    "explain_refusal",
    "select_decoding",
]

Decoding = Mapping[str, Any]

# What GenerationConfig calls otherwise: the setting here that says it.
OWN_SETTINGS: Mapping[str, str] = {
    "max_new_tokens": "new_tokens",
    "max_length": "new_tokens",
    "use_cache": "cache",
    "cache_implementation": "cache",
    "prefill_chunk_size": "prefill_chunk_size",
}
# What a file has beside and a run with random weights has no use for: bookkeeping, what is compiled, and settings of
# beams, assistants and packed caches, each of which is refused or set by what switches it on. `forced_decoder_ids` is
# of releases before 5, and Whisper's: the languages of its prompt.
_WITHOUT_EFFECT = (
    *("transformers_version", "_from_model_config", "cache_config", "disable_compile", "forced_decoder_ids"),
    *("compile_config", "continuous_batching_config", "is_assistant", "low_memory", "early_stopping", "length_penalty"),
    *("diversity_penalty", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
    *("speculation_type", "trust_remote_code", "chat_format"),
)
_FLAGS = (
    *("do_sample", "renormalize_logits", "remove_invalid_values", "return_dict_in_generate"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states", "use_mtp", "token_healing"),
)
_COUNTS = (
    *("top_k", "num_beams", "num_beam_groups", "num_return_sequences", "min_length", "min_new_tokens"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "prompt_lookup_num_tokens", "assistant_early_exit"),
    "max_cache_len",
)
_SHARES = ("top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_NUMBERS = (
    *("temperature", "repetition_penalty", "encoder_repetition_penalty", "guidance_scale", "penalty_alpha", "max_time"),
)
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
_LISTS = (
    *("forced_eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias"),
    *("exponential_decay_length_penalty", "constraints", "force_words_ids", "stop_strings", "dola_layers"),
    *("watermarking_config", "custom_generate"),
)
_KNOWN = (*_FLAGS, *_COUNTS, *_SHARES, *_NUMBERS, *_IDS, *_LISTS)
_MOST = 2**31 - 1
# Of GenerationConfig, where nothing is said.
_TOP_K = 50


def check_decoding(name: str, given: Any) -> Decoding:
    """Return fields of GenerationConfig with their values, None left out; raise UsageError for what is none."""
    if not isinstance(given, Mapping):
        raise UsageError(f"`{name}` is {describe_value(given)}; give a mapping of fields of GenerationConfig.")
    for key in given:
        if key in OWN_SETTINGS:
            raise UsageError(f"`{name}`: {key} is a setting of its own here; say `{OWN_SETTINGS[key]}`.")
    known = {key: value for key, value in given.items() if key not in _WITHOUT_EFFECT}
    for key in known:
        if key not in _KNOWN:
            near = find_nearest_names(str(key), _KNOWN)
            meant = f"did you mean {near[0]}?" if near else "name one that transformers has"
            raise UsageError(f"`{name}`: {quoted(key, 60)} is no field of GenerationConfig; {meant}")
    found = {key: value for key, value in known.items() if value is not None}
    for key, value in found.items():
        wanted = _find_fault(key, value)
        if wanted is not None:
            raise UsageError(f"`{name}`: {key} is {describe_value(value)}; give {wanted}.")
    return found


def select_decoding(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a whole generation_config.json says of how tokens are chosen; raise UsageError for a bad value.

    Keys that nobody knows are of the model's own code, and of no effect here.
    """
    return dict(check_decoding("generation", {key: value for key, value in fields.items() if key in _KNOWN}))


def explain_refusal(decoding: Decoding) -> str | None:
    """Return why a generation of this kind cannot be traced, and what can; None where it can be.

    Sources: transformers 5.23, generation/utils.py, logits_process.py, candidate_generator.py.
    """
    beams, groups = (decoding.get(name) or 1 for name in ("num_beams", "num_beam_groups"))
    is_sampled, sequences = decoding.get("do_sample"), decoding.get("num_return_sequences") or 1
    for key, words, reads, nearest in (
        *(
            (key, "constrained beam search", "its candidates' scores", "`generation=num_beams=1`")
            for key in ("constraints", "force_words_ids")
        ),
        ("dola_layers", "DoLa", "how far the layers' distributions lie apart, and runs", "a greedy generation"),
        ("prompt_lookup_num_tokens", "prompt lookup", "which of its guesses are right", "a greedy generation"),
        ("assistant_early_exit", "assisted decoding", "which of its guesses are right", "a greedy generation"),
        ("use_mtp", "assisted decoding", "which of its guesses are right", "a greedy generation"),
        ("stop_strings", "stopping at strings", "the text of the tokens", "a generation of all its `new_tokens`"),
        ("watermarking_config", "a watermark", "the tokens before", "a generation without one"),
        ("token_healing", "healing of tokens", "the text of the prompt", "a generation without it"),
        ("custom_generate", "a loop of a repository", "what nobody knows here", "transformers' own loop"),
        ("eta_cutoff", "eta_cutoff", "whether all scores are valid", "epsilon_cutoff or top_p"),
        ("top_h", "top_h", "the entropies of the rows", "top_p or min_p"),
    ):
        if decoding.get(key):
            return f"{key}: {words} reads {reads}, which have no values without weights; traced is {nearest}"
    if beams > 1:
        return (
            f"num_beams={beams}: beam search reads the scores of its beams (generation/utils.py, "
            "`_beam_search_has_unfinished_sequences`), which have no values without weights; the "
            f"nearest that is traced is `generation=num_beams=1` with `batch_size` times {beams}"
        )
    if groups > 1:
        return f"num_beam_groups={groups}: beam search reads the scores of its beams; drop it, and give no `num_beams`"
    candidates = decoding.get("top_k", _TOP_K)
    if not is_sampled and decoding.get("penalty_alpha") and (candidates or 0) > 1:
        return (
            "penalty_alpha: contrastive search reads how alike its candidates are, which nothing says without weights; "
            f"the nearest that is traced is sampling, `generation=do_sample=true,top_k={candidates}`"
        )
    if decoding.get("guidance_scale") not in (None, 1):
        return (
            f"guidance_scale={decoding['guidance_scale']:g}: classifier-free guidance runs the model a second time for "
            "each token, with a cache of its own, which is not told apart here; the nearest that is traced is twice "
            "the `batch_size` without it"
        )
    if not is_sampled and sequences > 1:
        return (
            f"num_return_sequences={sequences}: `generate` refuses several sequences for a prompt unless it samples; "
            "add do_sample=true"
        )
    return None


def _find_fault(key: str, value: Any) -> str | None:
    """Return what a value of a field should be, None where it is that."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    is_count = type(value) is int and 0 <= value <= _MOST
    if key in _FLAGS:
        return None if isinstance(value, bool) else "true or false"
    if key in _COUNTS:
        return None if is_count else f"an integer from 0 to {_MOST}"
    if key in _SHARES:
        return None if is_number and 0 <= value <= 1 else "a number from 0 to 1"
    if key in _NUMBERS:
        return None if is_number and value >= 0 else "a finite number of at least 0"
    if key in _IDS:
        ids = value if isinstance(value, list) and value else [value]
        return None if all(type(item) is int and -1 <= item <= _MOST for item in ids) else "a token's id, or a list"
    return None


def describe_decoding(decoding: Decoding) -> str:
    """Return how tokens are chosen, in a few words."""
    if not decoding.get("do_sample"):
        others = [
            key for key in ("repetition_penalty", "no_repeat_ngram_size") if decoding.get(key) not in (None, 0, 1)
        ]
        return ", ".join(("greedy", *(f"{key} {quoted(decoding[key], 20)}" for key in others)))
    shown = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
    return ", ".join(("sampling", *(f"{key} {decoding[key]:g}" for key in shown if decoding.get(key) is not None)))
