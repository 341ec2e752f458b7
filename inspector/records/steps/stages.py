"""What a training step is for: supervised, or a stage whose trainer runs more than one pass over its rows."""

from __future__ import annotations

from inspector.checks import Choice, check_choice, check_count, check_number
from inspector.errors import UsageError

__all__ = ["PAIRED", "WITH_REFERENCE", "Reference", "Stage", "check_stage", "name_stages", "split_row"]


class Stage(Choice):
    """Whose step runs, in the words of TRL.

    SFT: supervised, one pass over rows with labels. DPO: chosen and rejected answers, beside a reference's pass.
    KTO: single answers with a verdict, the same beside other rows of as many tokens. ORPO, CPO: chosen and rejected
    answers, no reference. REWARD: chosen and rejected rows through a head of one score. GRPO: answers that are
    generated, scored and learned from.
    """

    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"
    ORPO = "orpo"
    CPO = "cpo"
    REWARD = "reward"
    GRPO = "grpo"


class Reference(Choice):
    """What the reference of DPO, KTO and GRPO is.

    AUTO: the model without its adapter, or a second model where there is no adapter; in GRPO nothing. ADAPTER: the
    model without its adapter. MODEL: a second model. NONE: nothing runs, as its log-probabilities were computed before,
    or GRPO's beta is 0.
    """

    AUTO = "auto"
    ADAPTER = "adapter"
    MODEL = "model"
    NONE = "none"


# The stages whose rows come in pairs, and those that a reference runs in.
PAIRED = (Stage.DPO, Stage.ORPO, Stage.CPO, Stage.REWARD)
WITH_REFERENCE = (Stage.DPO, Stage.KTO, Stage.GRPO)

# What is read in which stages.
_READ_IN = {
    "reference": WITH_REFERENCE,
    "prompt_len": (Stage.DPO, Stage.KTO, Stage.ORPO, Stage.CPO, Stage.GRPO),
    "completion_len": (Stage.GRPO,),
    "num_generations": (Stage.GRPO,),
    "vllm_share": (Stage.GRPO,),
}


def check_stage(
    stage: object,
    *,
    reference: object,
    prompt_len: object,
    completion_len: object,
    num_generations: object,
    vllm_share: object,
) -> dict[str, object]:
    """Return the fields of a recipe that say its stage, checked; raise UsageError for one that its stage does not read.

    Supervised training and the reference that a stage takes by itself are None. A prompt and an answer that are both
    given make the row. A prompt without a stage may be that of a generation, which a recipe does not know.
    """
    checked: dict[str, object] = {"stage": None, "reference": None}
    if stage is not None and check_choice("stage", stage, Stage) is not Stage.SFT:
        checked["stage"] = check_choice("stage", stage, Stage)
    if reference is not None and check_choice("reference", reference, Reference) is not Reference.AUTO:
        checked["reference"] = check_choice("reference", reference, Reference)
    counts = {"prompt_len": prompt_len, "completion_len": completion_len, "num_generations": num_generations}
    checked |= {name: check_count(name, value) for name, value in counts.items() if value is not None}
    if vllm_share is not None:
        checked["vllm_share"] = _check_share(vllm_share)
    for name, stages in _READ_IN.items():
        is_read = checked["stage"] in stages or (name == "prompt_len" and checked["stage"] is None)
        if checked.get(name) is not None and not is_read:
            raise UsageError(f"`{name}` applies to {name_stages(name)}: add that, or drop it.")
    if prompt_len is not None and completion_len is not None:
        checked |= {"seq_len": checked["prompt_len"] + checked["completion_len"], "completion_len": None}  # type: ignore[operator]
    return checked


def name_stages(name: str) -> str:
    """Return the stages that read a field of a recipe, in words."""
    *others, last = (f"`stage={member.value}`" for member in _READ_IN[name])
    return f"{', '.join(others)} or {last}" if others else last


def split_row(seq_len: int, prompt_len: int | None, completion_len: int | None, *, halves: bool) -> tuple[int, int]:
    """Return how many tokens of a row are prompt and how many are answer.

    Where nothing says so half of the row is each with `halves`, else all but one token are the answer, which is the
    most that a row can ask for.
    """
    if prompt_len is None and completion_len is not None:
        prompt_len = seq_len - completion_len
    if prompt_len is None:
        prompt_len = seq_len // 2 if halves else 1
    prompt_len = max(min(prompt_len, seq_len - 1), 1)  # a search tries rows of any length
    return prompt_len, max(seq_len - prompt_len, 1)


def _check_share(value: object) -> float:
    """Return a part of a card, above 0 and below 1."""
    share = check_number("vllm_share", value)
    if not 0 < share < 1:
        raise UsageError(f"`vllm_share` is {share:g}; give a part of the card, above 0 and below 1, such as 0.3.")
    return share
