"""Several cards for one run: which rank was traced, and what they have to hold at least where none was.

Without a traced rank a verdict is of one card that runs the whole step. On several, FSDP and ZeRO shard the state of a
run, so that a no of one card is no answer: what decides then is whether the shares fit. Activations, gathered weights
and buffers of communication come on top and are not counted, so that the number of cards is a lower bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from inspector.compat.deepspeed import has_deepspeed
from inspector.dtypes import BY_TORCH_NAME
from inspector.errors import InspectorError, NotTraceableError
from inspector.memory.timeline import Summary
from inspector.predict.predictor import Predictor
from inspector.records.fit import Advice, Cards, Fit, Purpose, Verdict
from inspector.records.memory import StaticRecipe
from inspector.records.notice import Notice
from inspector.records.request import Sharding
from inspector.records.steps.ranks import Ddp, DeviceMap, Fsdp1, Fsdp2, Launch, Ranks, TensorParallel, Zero
from inspector.resolve import ResolvedRun, find_packing
from inspector.units import format_bytes

__all__ = [
    "JUDGED_ALONE",
    "advise_sharding",
    "count_least_cards",
    "count_shards",
    "describe_ranks",
    "explain_alone",
    "find_ranks",
    "list_late_notices",
    "list_rank_notices",
    "spread_over_cards",
]

Progress = Callable[[str], None]

JUDGED_ALONE = Notice(
    code="several-gpus",
    message="The ranks of this run are not traced yet: each verdict is on one card alone, as if it ran the whole step.",
)


ONE_NAMED = Notice(
    code="several-gpus",
    message=(
        "Several cards share what is sharded, and one is named: the verdict is on it alone, as if it ran the whole "
        "step. `gpu_count` says how many there are, and so does num_processes of a launcher's file."
    ),
)
DEEPSPEED_MISSING = Notice(
    code="several-gpus",
    message=(
        "Ranks of DeepSpeed are traced by its own code, which is not installed (DS_BUILD_OPS=0 pip install deepspeed): "
        "each verdict is on one card alone, as if it ran the whole step."
    ),
)
ZERO_ASSUMED = Notice(
    code="zero-assumed",
    message=(
        "No file says how DeepSpeed is configured: buckets are as transformers' examples leave them to auto. Without "
        '"auto" they have 500 million elements, 1 GB each in half precision.'
    ),
)


def explain_alone(run: ResolvedRun) -> Notice:
    """Return why one card alone is judged for a run over several."""
    if run.cards == 1:
        return ONE_NAMED
    is_zero = run.request.sharding in (Sharding.ZERO1, Sharding.ZERO2, Sharding.ZERO3)
    return DEEPSPEED_MISSING if is_zero and not has_deepspeed() else JUDGED_ALONE


def spread_over_cards(verdict: Verdict, count: int, sharding: str | None, state: StaticRecipe) -> Verdict:
    """Return the verdict of one card with what `count` of them have to hold of a run's `state`.

    A no stays one where not even the shares fit, and is not known where they do.
    """
    least = count_least_cards(state, verdict.usable_bytes, sharding)
    cards = Cards(count=count, sharding=sharding, state_bytes=state.total_bytes, least_count=least)
    verdict = dataclasses.replace(verdict, cards=cards)
    if verdict.outcome is not Fit.NO or least is None or least > count:
        return verdict
    missing = format_bytes(-(verdict.headroom_bytes or 0))
    reason = f"one card alone lacks {missing}; {count} hold the sharded state, and what each rank takes is not traced"
    return dataclasses.replace(verdict, outcome=Fit.UNKNOWN, headroom_bytes=None, reason=reason)


def describe_ranks(verdict: Verdict, count: int, sharding: str | None, state: StaticRecipe, ranks: Ranks) -> Verdict:
    """Return the verdict on a rank with what there is to say of all `count` of them."""
    least = count_least_cards(state, verdict.usable_bytes, sharding)
    least = None if least is None else least * (ranks.copies or 1)
    cards = Cards(count=count, sharding=sharding, state_bytes=state.total_bytes, least_count=least, ranks=ranks)
    return dataclasses.replace(verdict, cards=cards)


def find_ranks(run: ResolvedRun, predictor: Predictor) -> Ranks | None:
    """Return which rank of a run is predicted, None where one card has the whole run."""
    if run.launch is None:
        return None
    rows = predictor.list_row_counts(run)
    size = run.launch.world_size
    shards = count_shards(run.launch)
    # The first ranks hold as many rows of a parameter as the first one, the last ones what is left of it.
    alike = min((count // -(-count // shards) for count in rows), default=shards)
    copies = run.launch.replicas if isinstance(run.launch, (Fsdp1, Fsdp2)) else 1
    is_cut_by_rows = isinstance(run.launch, Fsdp2)  # FSDP1 pads each unit to equal pieces
    if isinstance(run.launch, TensorParallel):
        return Ranks(strategy=_describe_cut(run.launch), world_size=size, rank=0, alike=size)
    if isinstance(run.launch, Zero):
        strategy = f"ZeRO-{run.launch.stage} as DeepSpeed {version('deepspeed')} runs it"
    else:
        name = {Ddp: "DDP", Fsdp1: "FSDP1", Fsdp2: "FSDP2"}[type(run.launch)]
        strategy = f"{name} as accelerate {version('accelerate')} wraps it"
    if copies > 1:
        strategy += f" with shards on each of {copies:,} nodes (HSDP)"
    alike = alike * copies if is_cut_by_rows else size
    return Ranks(strategy=strategy, world_size=size, rank=0, alike=alike, copies=copies if copies > 1 else None)


def count_shards(launch: Launch) -> int:
    """Return over how many ranks each parameter is sharded."""
    return launch.world_size // (launch.replicas if isinstance(launch, (Fsdp1, Fsdp2)) else 1)


def _describe_cut(launch: TensorParallel) -> str:
    """Return how layers are cut."""
    groups = launch.world_size // launch.tensor_parallel
    cut = (("tensor", launch.tensor_parallel), ("expert", launch.expert_parallel))
    words = " and ".join(f"{what} parallel over {count:,}" for what, count in cut if count > 1)
    words = f"{words} by the plan of transformers {version('transformers')}"
    return words if groups == 1 else f"{words}, FSDP2 over {groups:,}"


def advise_sharding(run: ResolvedRun, verdict: Verdict, predictor: Predictor, progress: Progress) -> Verdict:
    """Return the verdict on a rank that has the whole model with what sharding it changes, where that makes it fit."""
    if verdict.outcome is not Fit.NO or not run.request.advice or not isinstance(run.launch, Ddp):
        return verdict
    sharded = run.with_request(dataclasses.replace(run.request, sharding=Sharding.FSDP))
    progress("what would make it fit: --fsdp")
    try:
        prediction = predictor.predict(sharded)
    except (NotTraceableError, InspectorError):
        return verdict
    found = prediction.judge().outcome
    if found not in (Fit.YES, Fit.TIGHT):
        return verdict
    advice = Advice(
        purpose=Purpose.FIT, change="--fsdp", total_bytes=prediction.total_bytes, is_tight=found is Fit.TIGHT
    )
    return dataclasses.replace(verdict, advice=(advice, *(verdict.advice or ())))


def count_least_cards(state: StaticRecipe, usable_bytes: int, sharding: str | None) -> int | None:
    """Return the least number of cards with so much memory that hold a state sharded, None where no number does.

    Without a `sharding` it is kept as FSDP does. Buffers are whole on every card.
    """
    parts = {
        Sharding.ZERO1: (state.optimizer_bytes,),
        Sharding.ZERO2: (state.optimizer_bytes, state.gradients_bytes),
    }
    everything = (state.optimizer_bytes, state.gradients_bytes, state.trained_bytes, state.frozen_bytes)
    shared = sum(everything if sharding is None else parts.get(Sharding(sharding), everything))
    left = usable_bytes - (state.total_bytes - shared)
    if left <= 0:
        return None
    return max(-(-shared // left), 1)


def list_rank_notices(run: ResolvedRun, trained: Mapping[str, int]) -> tuple[Notice, ...]:
    """Return what makes a rank of a run take more than its share, and what would not.

    `trained` are the bytes of the parameters that train, by the names of their dtypes.
    """
    if run.launch is None or isinstance(run.launch, (Ddp, DeviceMap)):
        return ()
    if isinstance(run.launch, Zero):
        return () if run.launch.config is not None else (ZERO_ASSUMED,)
    notices = []
    packing = find_packing(run)
    if packing is not None and packing[1] == "uint8":
        message = (
            "4-bit weights held in uint8 are not sharded: each card has all of them. --quant-storage bfloat16 "
            "(bnb_4bit_quant_storage) shards them."
        )
        notices.append(Notice(code="packed-unsharded", message=message))
    count = run.recipe.gradient_accumulation
    if isinstance(run.launch, TensorParallel):
        return (*notices, *_list_notices_of_cut(run.launch, count))
    if count > 1:
        whole = format_bytes(_count_whole_gradients(run, trained))
        message = (
            f"Gradients stay whole on each card, {whole}, until the last of {count} micro-batches: Trainer defers "
            "their reduction (no_sync). Without accumulation each card has its share."
        )
        notices.append(Notice(code="whole-gradients", message=message))
    return tuple(notices)


def list_late_notices(run: ResolvedRun, summary: Summary) -> Iterator[Notice]:
    """Yield what a rank takes at most where that depends on time: a report has the least of it."""
    if summary.late is None:
        return
    (allocated, reserved), timeline = summary.late, summary.timeline
    if isinstance(run.launch, Ddp):
        if allocated > timeline.peak_allocated_bytes or reserved > timeline.peak_reserved_bytes:
            message = (
                "DDP's first buckets live through the second step where NCCL's watchdog, which looks every 100 ms, has "
                f"not seen the first one end: that step peaks at {format_bytes(allocated)} allocated, "
                f"{format_bytes(reserved)} reserved then."
            )
            yield Notice(code="late-buckets", message=message)
    elif reserved > timeline.peak_reserved_bytes:
        message = (
            "Reserved memory is the least of this run: a block that another stream used comes back when that is done. "
            f"At most {format_bytes(reserved)} are reserved, {format_bytes(reserved - timeline.peak_reserved_bytes)} "
            "more."
        )
        yield Notice(code="late-frees", message=message)


def _list_notices_of_cut(launch: TensorParallel, accumulation: int) -> Iterator[Notice]:
    """Yield what is assumed of experts that are spread, and what accumulation leaves whole."""
    if launch.expert_parallel > 1:
        message = (
            "Which tokens go to which experts is what a router says of the data: the trace assumes that each takes as "
            "many, on all ranks. A rank whose experts take more has more activations."
        )
        yield Notice(code="balanced-experts", message=message)
    if accumulation > 1 and launch.world_size > launch.tensor_parallel:
        message = (
            f"Gradients of what FSDP2 shards stay whole on each card until the last of {accumulation} micro-batches: "
            "Trainer defers their reduction. Without accumulation each card has its share."
        )
        yield Notice(code="whole-gradients", message=message)


def _count_whole_gradients(run: ResolvedRun, trained: Mapping[str, int]) -> int:
    """Return the size of the gradients of all that trains, in the dtype of FSDP's policy where there is one."""
    if run.recipe.mixed_precision == "no":
        return sum(trained.values())
    return sum(size * 16 // BY_TORCH_NAME[dtype].bits for dtype, size in trained.items())
