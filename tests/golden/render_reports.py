"""Reports written by hand for the tests of the renderers; the figures of the real models are real.

`HOSTILE` has the same unfriendly text in every field that comes from outside. None of it is meant to be believable.
"""

from __future__ import annotations

import dataclasses

from inspector.records.fit import Advice, Fit, Purpose, Search, Tried, Verdict
from inspector.records.memory import (
    ACTIVATION_RULES,
    MemoryPhase,
    Peak,
    RunMemory,
    StaticBytes,
    StaticRecipe,
    Textbook,
    TextbookDifference,
    TextbookRule,
    TopModule,
    Unaccounted,
)
from inspector.records.model import AdapterFacts, Census, MatchedNames, ModelFacts, Role, TreeRow
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.source import Published, ServedFrom
from inspector.records.tape import Category, Phase
from inspector.workloads.registry import TRAINING
from tests.golden.render_checkpoints import DOWNLOAD, hostile_checkpoint

__all__ = [
    "COUNT_ONLY",
    "DEEPSEEK_FULL",
    "HOSTILE",
    "HOSTILE_TEXT",
    "QWQ_LORA",
    "REPORTS",
    "TIED_WITH_WARNINGS",
    "WITH_DOWNLOAD",
]

VERSIONS = {"inspector": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "python": "3.11.7"}
SOURCE = "2 + 2 + 8 bytes an element: https://huggingface.co/docs/transformers/model_memory_anatomy"
MOMENTS = "AdamW's moments are in bfloat16 like the weights they belong to; the rule takes two float32."
BUFFERS = "Buffers are in memory too; the rule leaves them out."


# The cache is a category of generation alone.
_OF_A_STEP = [category for category in Category if category is not Category.KV_CACHE]


def tree_row(  # one line a row below
    depth: int, name: str, type_: str, repeat: int, count: int, trainable: int, bytes_: int, shared: str | None = None
) -> TreeRow:
    """Return a row of the module tree."""
    return TreeRow(
        name=name,
        type=type_,
        depth=depth,
        repeat=repeat,
        count=count,
        trainable=trainable,
        bytes=bytes_,
        shared_with=shared,
    )


def full_recipe(weight_bytes: int, buffers_bytes: int) -> StaticRecipe:
    """Return full fine-tuning with everything in the dtype of the weights."""
    return StaticRecipe(
        frozen_bytes=0,
        trained_bytes=weight_bytes,
        gradients_bytes=weight_bytes,
        optimizer_bytes=2 * weight_bytes,
        buffers_bytes=buffers_bytes,
    )


def phase(name: Phase, step: int, end_bytes: int, peak_bytes: int) -> MemoryPhase:
    """Return a phase; what it reserves is shown nowhere."""
    return MemoryPhase(
        name=name,
        step=step,
        end_allocated_bytes=end_bytes,
        peak_allocated_bytes=peak_bytes,
        end_reserved_bytes=peak_bytes,
        peak_reserved_bytes=peak_bytes,
    )


def verdict(gpu: str, usable_bytes: int, headroom_bytes: int, *assumptions: str) -> Verdict:
    """Return the verdict on a GPU of 1,000 bytes more."""
    return Verdict(
        gpu=gpu,
        memory_bytes=usable_bytes + 1_000,
        overhead_bytes=1_000,
        usable_bytes=usable_bytes,
        outcome=Fit.YES if headroom_bytes >= 0 else Fit.NO,
        headroom_bytes=headroom_bytes,
        assumptions=assumptions,
    )


def rule(name: str, formula: str, size: int, *differences: tuple[str, int]) -> TextbookRule:
    """Return a rule whose exact bytes are the rule's and its differences."""
    return TextbookRule(
        name=name,
        formula=formula,
        bytes=size,
        source=SOURCE,
        exact_bytes=size + sum(difference for _, difference in differences),
        differences=tuple(TextbookDifference(cause=cause, bytes=difference) for cause, difference in differences),
    )


# --- QwQ-32B with LoRA r=16 on all linear layers ----------------------------------------------------------------------
# hidden 5,120, intermediate 27,648, 64 layers, 40 heads and 8 key/value heads of 128, vocabulary 152,064.
# P: embedding and lm_head 152,064 x 5,120 = 778,567,680 each; P_a: 16 x 64 x (in + out of the seven linears: 131,072).

QWQ_P = 32_763_876_352
QWQ_PA = 134_217_728
LAYERS = "model.layers.0-63"

# The figures of a trace of one row of 1,024 tokens; the parts of attention and the norms of a layer as one.
QWQ_BREAKDOWN = {
    Category.WEIGHTS: 65_529_849_856,
    Category.ADAPTER: 536_870_912,
    Category.BUFFERS: 1_024,
    Category.GRADIENTS: 0,
    Category.OPTIMIZER: 1_074_397_696,
    Category.ACTIVATIONS: 30_509_367_808,
    Category.ATTENTION_MASK: 0,
    Category.LOGITS_AND_LOSS: 1_868_562_944,
    Category.TEMPORARIES: 0,
    Category.INPUTS: 16_384,
    Category.OTHER: 17_039_360,
}
QWQ_MODULES_OF_A_LAYER = {
    "mlp.down_proj": 113_246_208,
    "mlp.gate_proj": 77_594_624,
    "mlp.up_proj": 77_594_624,
    "mlp.act_fn": 56_623_104,
    "self_attn": 151_314_368,
}
QWQ_MODULES = {
    "": 69_018_219_008,
    **{f"model.layers.{n}.{name}": size for name, size in QWQ_MODULES_OF_A_LAYER.items() for n in range(64)},
    "model.norm": 20_975_616,
    "model.layers.0.self_attn.q_proj.base_layer": 8_519_680,
    "model.rotary_emb": 524_288,
}

NOT_MEASURED = "The CUDA context is not measured here: the largest known on any card is taken, the RTX PRO 6000's."

QWQ_TRAINING = RunMemory(
    workload=TRAINING,
    recipe=Recipe(attention="sdpa"),
    platform="CUDA compute capability 8.0, torch 2.13",
    peak_allocated_bytes=99_536_105_984,
    peak_reserved_bytes=100_969_480_192,
    overhead_bytes=697_303_040,
    overhead_source="not measured here: the largest known on any card is taken, the RTX PRO 6000's",
    end_of_step_allocated_bytes=66_083_777_536,
    peak=Peak(
        event_index=20_000,
        step=2,
        phase=Phase.BACKWARD,
        module="",
        op="aten._log_softmax_backward_data.default",
        breakdown=QWQ_BREAKDOWN,
    ),
    phases=(
        phase(Phase.LOAD, 0, 66_066_738_688, 66_066_739_712),
        phase(Phase.FORWARD, 2, 98_290_406_400, 99_235_174_400),
        phase(Phase.BACKWARD, 2, 67_744_002_048, 99_536_105_984),
        phase(Phase.OPTIMIZER, 2, 66_083_777_536, 68_282_445_824),
    ),
    top_modules=tuple(TopModule(name=name, bytes=size) for name, size in QWQ_MODULES.items()),
    not_accounted=(
        Unaccounted(
            what="partial sums of reductions over long columns",
            why="bias and norm-weight gradients take buffers for a moment",
        ),
        Unaccounted(
            what="plans of cuDNN convolutions and attention", why="their workspaces are chosen by cuDNN at run time"
        ),
    ),
)

QWQ_LORA = Report(
    versions=VERSIONS,
    model=ModelFacts(
        id="Qwen/QwQ-32B",
        revision="976055f8c83f394f35dbd3ab09a285a984907bd0",
        model_class="Qwen2ForCausalLM",
        model_type="qwen2",
        dtype="bfloat16",
        source=ServedFrom.HUB,
    ),
    parameters=Census(
        base=QWQ_P,
        total=QWQ_P + QWQ_PA,
        trainable=QWQ_PA,
        buffers=128,
        buffer_bytes=512,
        groups={
            Role.EMBEDDING: 778_567_680,
            Role.ATTENTION: 4_026_990_592,
            Role.MLP: 27_179_089_920,
            Role.NORM: 660_480,
            Role.LM_HEAD: 778_567_680,
            Role.ADAPTER: QWQ_PA,
        },
        dtypes={"bfloat16": 2 * QWQ_P, "float32": 4 * QWQ_PA},
        trainable_dtypes={"float32": 4 * QWQ_PA},
        tree=(
            tree_row(0, "", "Qwen2ForCausalLM", 1, QWQ_P + QWQ_PA, QWQ_PA, 66_064_623_616),
            tree_row(1, "model", "Qwen2Model", 1, 32_119_526_400, QWQ_PA, 64_507_488_256),
            tree_row(2, "model.embed_tokens", "Embedding", 1, 778_567_680, 0, 1_557_135_360),
            tree_row(2, LAYERS, "Qwen2DecoderLayer", 64, 31_340_953_600, QWQ_PA, 62_950_342_656),
            tree_row(3, f"{LAYERS}.self_attn", "Qwen2Attention", 64, 4_060_545_024, 33_554_432, 8_188_198_912),
            tree_row(3, f"{LAYERS}.mlp", "Qwen2MLP", 64, 27_279_753_216, 100_663_296, 54_760_833_024),
            tree_row(3, f"{LAYERS}.input_layernorm", "Qwen2RMSNorm", 64, 327_680, 0, 655_360),
            tree_row(3, f"{LAYERS}.post_attention_layernorm", "Qwen2RMSNorm", 64, 327_680, 0, 655_360),
            tree_row(2, "model.norm", "Qwen2RMSNorm", 1, 5_120, 0, 10_240),
            tree_row(2, "model.rotary_emb", "Qwen2RotaryEmbedding", 1, 0, 0, 0),
            tree_row(1, "lm_head", "Linear", 1, 778_567_680, 0, 1_557_135_360),
        ),
        published=Published(
            parameters=QWQ_P, kind="hub safetensors total", source="https://huggingface.co/Qwen/QwQ-32B"
        ),
    ),
    adapter=AdapterFacts(
        type="LORA",
        config={"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "target_modules": "all-linear"},
        targets=MatchedNames(
            matched=(
                *(f"{LAYERS}.self_attn.{name}_proj" for name in "qkvo"),
                *(f"{LAYERS}.mlp.{name}_proj" for name in ("gate", "up", "down")),
            ),
            matched_count=448,
        ),
        file_bytes=536_991_984,
    ),
    static=StaticBytes(
        optimizer="adamw_torch",
        full=full_recipe(2 * QWQ_P, 512),
        adapter=StaticRecipe(
            frozen_bytes=2 * QWQ_P,
            trained_bytes=4 * QWQ_PA,
            gradients_bytes=4 * QWQ_PA,
            optimizer_bytes=8 * QWQ_PA,
            buffers_bytes=512,
        ),
    ),
    memory=QWQ_TRAINING,
    # H100: 84,929,413,120 bytes less the context; missing is the peak of 99,536,105,984 beyond that. H200 likewise.
    fit=(
        Verdict(
            gpu="H100 SXM",
            memory_bytes=84_929_413_120,
            overhead_bytes=697_303_040,
            usable_bytes=84_232_110_080,
            outcome=Fit.NO,
            headroom_bytes=-15_303_995_904,
            assumptions=(NOT_MEASURED,),
        ),
        Verdict(
            gpu="H200",
            memory_bytes=150_000_893_952,
            overhead_bytes=697_303_040,
            usable_bytes=149_303_590_912,
            outcome=Fit.YES,
            headroom_bytes=48_334_110_720,
            assumptions=(NOT_MEASURED,),
        ),
    ),
    textbook=Textbook(
        rules=(
            rule("full fine-tuning", "12·P", 12 * QWQ_P, (MOMENTS, -4 * QWQ_P), (BUFFERS, 512)),
            rule(
                "adapter",
                "12·P_a + 2·P",
                12 * QWQ_PA + 2 * QWQ_P,
                ("PEFT keeps the trained weights in float32; the rule takes 2 bytes an element.", 2 * QWQ_PA),
                ("Their gradients are in float32 too; the rule takes 2 bytes an element.", 2 * QWQ_PA),
                (BUFFERS, 512),
            ),
            rule(
                ACTIVATION_RULES[0],
                "34·B·S·H·L",
                34 * 1_024 * 5_120 * 64,
                ("The rule knows GPT's block in 16 bit.", 30_509_367_296 - 34 * 1_024 * 5_120 * 64),
            ),
        )
    ),
)

# --- DeepSeek-V3, full fine-tuning: experts, and a published count that differs ---------------------------------------

DEEPSEEK_P = 671_026_404_352
DENSE, SPARSE = "model.layers.0-2", "model.layers.3-60"
# name, type, depth, repeat, count; everything is trained, in bfloat16
DEEPSEEK_TREE = (
    ("", "DeepseekV3ForCausalLM", 0, 1, DEEPSEEK_P),
    ("model", "DeepseekV3Model", 1, 1, 670_099_725_312),
    ("model.embed_tokens", "Embedding", 2, 1, 926_679_040),
    (DENSE, "DeepseekV3DecoderLayer", 2, 3, 1_750_450_176),
    (f"{DENSE}.self_attn", "DeepseekV3Attention", 3, 3, 561_321_984),
    (f"{DENSE}.mlp", "DeepseekV3MLP", 3, 3, 1_189_085_184),
    (f"{DENSE}.input_layernorm", "DeepseekV3RMSNorm", 3, 3, 21_504),
    (f"{DENSE}.post_attention_layernorm", "DeepseekV3RMSNorm", 3, 3, 21_504),
    (SPARSE, "DeepseekV3DecoderLayer", 2, 58, 667_422_588_928),
    (f"{SPARSE}.self_attn", "DeepseekV3Attention", 3, 58, 10_852_225_024),
    (f"{SPARSE}.mlp", "DeepseekV3MoE", 3, 58, 656_569_532_416),
    (f"{SPARSE}.input_layernorm", "DeepseekV3RMSNorm", 3, 58, 415_744),
    (f"{SPARSE}.post_attention_layernorm", "DeepseekV3RMSNorm", 3, 58, 415_744),
    ("model.norm", "DeepseekV3RMSNorm", 2, 1, 7_168),
    ("model.rotary_emb", "DeepseekV3RotaryEmbedding", 2, 1, 0),
    ("lm_head", "Linear", 1, 1, 926_679_040),
)

DEEPSEEK_FULL = Report(
    versions=VERSIONS,
    model=ModelFacts(
        id="deepseek-ai/DeepSeek-V3",
        model_class="DeepseekV3ForCausalLM",
        model_type="deepseek_v3",
        dtype="bfloat16",
        source=ServedFrom.BUNDLED,
    ),
    parameters=Census(
        base=DEEPSEEK_P,
        total=DEEPSEEK_P,
        trainable=DEEPSEEK_P,
        buffers=14_912,
        buffer_bytes=59_648,
        active=37_552_282_624,
        groups={
            Role.EMBEDDING: 926_679_040,
            Role.ATTENTION: 11_413_422_080,
            Role.MLP: 3_849_846_784,
            Role.EXPERTS: 653_908_770_816,
            Role.NORM: 1_006_592,
            Role.LM_HEAD: 926_679_040,
        },
        dtypes={"bfloat16": 2 * DEEPSEEK_P},
        trainable_dtypes={"bfloat16": 2 * DEEPSEEK_P},
        tree=tuple(
            tree_row(depth, name, type_, repeat, count, count, 2 * count)
            for name, type_, depth, repeat, count in DEEPSEEK_TREE
        ),
        published=Published(
            parameters=684_531_386_000,
            kind="hub safetensors total",
            source="https://huggingface.co/deepseek-ai/DeepSeek-V3",
            explanation="The checkpoint also holds a multi-token-prediction layer that transformers does not build "
            "(11,610,067,968), second copies of the embedding and the output projection for it "
            "(2 × 129,280 × 7,168 = 1,853,358,080), the routers' correction biases (59 × 256 = 15,104), and one scale "
            "for every 128 × 128 block of the FP8 weights (41,540,496).",
        ),
    ),
    static=StaticBytes(optimizer="adamw_torch", full=full_recipe(2 * DEEPSEEK_P, 59_648)),
    textbook=Textbook(
        rules=(rule("full fine-tuning", "12·P", 12 * DEEPSEEK_P, (MOMENTS, -4 * DEEPSEEK_P), (BUFFERS, 59_648)),)
    ),
    warnings=(
        Notice(
            code="quantized-checkpoint",
            message="The checkpoint is stored quantized (fp8): parameters are counted as the model uses them, and "
            "their bytes here are those of bfloat16.",
        ),
    ),
)

# --- Llama-3.2-1B: tied, from the cache, with an adapter repository, names that hit nothing, many warnings ------------

LLAMA_P = 1_235_814_400
LLAMA_PA = 851_968
LLAMA_LAYERS = "model.layers.0-15"

TIED_WITH_WARNINGS = Report(
    versions=VERSIONS,
    model=ModelFacts(
        id="meta-llama/Llama-3.2-1B",
        revision="main",
        model_class="LlamaForCausalLM",
        model_type="llama",
        dtype="bfloat16",
        source=ServedFrom.CACHE,
        adapter_id="somebody/llama-3.2-1b-lora",
    ),
    parameters=Census(
        base=LLAMA_P,
        total=LLAMA_P + LLAMA_PA,
        trainable=LLAMA_PA,
        buffers=64,
        buffer_bytes=256,
        groups={
            Role.EMBEDDING: 262_668_288,
            Role.ATTENTION: 167_772_160,
            Role.MLP: 805_306_368,
            Role.NORM: 67_584,
            Role.ADAPTER: LLAMA_PA,
        },
        dtypes={"bfloat16": 2 * LLAMA_P, "float32": 4 * LLAMA_PA},
        trainable_dtypes={"float32": 4 * LLAMA_PA},
        tied=(("model.embed_tokens.weight", "lm_head.weight"),),
        tree=(
            tree_row(0, "", "LlamaForCausalLM", 1, LLAMA_P + LLAMA_PA, LLAMA_PA, 2_475_036_672),
            tree_row(1, "model", "LlamaModel", 1, LLAMA_P + LLAMA_PA, LLAMA_PA, 2_475_036_672),
            tree_row(2, "model.embed_tokens", "Embedding", 1, 262_668_288, 0, 525_336_576),
            tree_row(2, LLAMA_LAYERS, "LlamaDecoderLayer", 16, 973_996_032, LLAMA_PA, 1_949_696_000),
            tree_row(2, "model.norm", "LlamaRMSNorm", 1, 2_048, 0, 4_096),
            tree_row(1, "lm_head", "Linear", 1, 0, 0, 0, "model.embed_tokens.weight"),
        ),
        published=Published(
            parameters=1_498_482_688, kind="a count without ties", source="A figure that nobody explained."
        ),
    ),
    adapter=AdapterFacts(
        type="LORA",
        config={
            "peft_type": "LORA",
            "base_model_name_or_path": "meta-llama/Llama-3.2-1B",
            "r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "target_modules": ["q_proj", "v_proj", "key_proj"],
            "init_lora_weights": False,
            "modules_to_save": ["embed_token"],
        },
        targets=MatchedNames(
            matched=(f"{LLAMA_LAYERS}.self_attn.q_proj", f"{LLAMA_LAYERS}.self_attn.v_proj"),
            matched_count=32,
            unmatched=("key_proj",),
        ),
        modules_to_save=MatchedNames(matched=(), matched_count=0, unmatched=("embed_token",)),
        file_bytes=None,
    ),
    warnings=(
        Notice(
            code="target-unmatched",
            message="'key_proj' is the name of no target in this model: nothing is trained for it. "
            "Did you mean 'k_proj'?",
        ),
        Notice(
            code="module-to-save-unmatched",
            message="'embed_token' is the name of no module to save in this model: nothing is trained for it. "
            "Did you mean 'embed_tokens'?",
        ),
        Notice(code="model-class-fallback", message="The config names a class that transformers no longer has."),
        Notice(code="no-network", message="The Hub could not be reached: the configuration is that of the cache."),
    ),
)

COUNT_ONLY = dataclasses.replace(
    DEEPSEEK_FULL,
    parameters=dataclasses.replace(DEEPSEEK_FULL.parameters, tree=(), published=None),
    static=None,
    textbook=None,
    warnings=(),
)

WITH_DOWNLOAD = dataclasses.replace(COUNT_ONLY, checkpoint=DOWNLOAD)

# --- hostile text in every field that comes from outside --------------------------------------------------------------

HOSTILE_TEXT = (
    "\x1b[31mevil\x1b]0;title\x07 [red]loud[/red] :skull: | `code` **x** [a](javascript:x) $m$ </td>"
    "<script>alert('1')</script>\r\n# heading\n- item\t\x00\x7f\x9b31m \u202egnp.exe \u2066 \u200b \ud800 &amp; end"
)


def _with_hostile_choices(recipe: Recipe) -> Recipe:
    """Return a recipe with texts that its checks would refuse: renderers rely on nobody."""
    for name in ("mixed_precision", "optimizer", "loop", "attention", "sdpa_backend"):
        object.__setattr__(recipe, name, HOSTILE_TEXT)
    return recipe


_HOSTILE_NAMES = MatchedNames(matched=(HOSTILE_TEXT, "a.b"), matched_count=2, unmatched=(HOSTILE_TEXT,))

_HOSTILE_ADVICE = (Advice(purpose=Purpose.FIT, change=HOSTILE_TEXT, total_bytes=4_900),)
HOSTILE = Report(
    versions={**VERSIONS, "torch": HOSTILE_TEXT},
    model=ModelFacts(
        id=HOSTILE_TEXT,
        revision=HOSTILE_TEXT,
        model_class=HOSTILE_TEXT,
        model_type=HOSTILE_TEXT,
        dtype=HOSTILE_TEXT,
        source=ServedFrom.LOCAL,
        adapter_id=HOSTILE_TEXT,
    ),
    parameters=Census(
        base=100,
        total=110,
        trainable=10,
        buffers=0,
        buffer_bytes=0,
        groups={Role.OTHER: 100, Role.ADAPTER: 10},
        dtypes={HOSTILE_TEXT: 440},
        trainable_dtypes={HOSTILE_TEXT: 40},
        tied=((HOSTILE_TEXT, "b"),),
        tree=(
            tree_row(0, "", HOSTILE_TEXT, 1, 110, 10, 440),
            tree_row(1, HOSTILE_TEXT, HOSTILE_TEXT, 1, 110, 10, 440),
            tree_row(1, "shared", HOSTILE_TEXT, 1, 0, 0, 0, HOSTILE_TEXT),
        ),
        published=Published(parameters=90, kind=HOSTILE_TEXT, source=HOSTILE_TEXT, explanation=HOSTILE_TEXT),
    ),
    adapter=AdapterFacts(
        type=HOSTILE_TEXT,
        config={HOSTILE_TEXT: HOSTILE_TEXT, "nan": float("nan"), "names": {"b", "a"}, "list": [HOSTILE_TEXT]},
        targets=_HOSTILE_NAMES,
        modules_to_save=_HOSTILE_NAMES,
        file_bytes=1_024,
    ),
    checkpoint=hostile_checkpoint(HOSTILE_TEXT),
    static=StaticBytes(
        optimizer=HOSTILE_TEXT,
        full=full_recipe(400, 0),
        adapter=StaticRecipe(
            frozen_bytes=400, trained_bytes=40, gradients_bytes=40, optimizer_bytes=80, buffers_bytes=0
        ),
    ),
    textbook=Textbook(
        rules=(
            TextbookRule(
                name=HOSTILE_TEXT,
                formula=HOSTILE_TEXT,
                bytes=100,
                source=HOSTILE_TEXT,
                exact_bytes=1_600,
                differences=(TextbookDifference(cause=HOSTILE_TEXT, bytes=1_500),),
            ),
        )
    ),
    memory=RunMemory(
        workload=TRAINING,
        recipe=_with_hostile_choices(Recipe(batch_size=3, gradient_accumulation=4, max_grad_norm=0)),
        platform=HOSTILE_TEXT,
        peak_allocated_bytes=1_000,
        peak_reserved_bytes=2_097_152,
        overhead_bytes=1_000,
        overhead_source=HOSTILE_TEXT,
        end_of_step_allocated_bytes=700,
        peak=Peak(
            event_index=0,
            step=1,
            phase=Phase.FORWARD,
            module=HOSTILE_TEXT,
            op=HOSTILE_TEXT,
            breakdown={
                **dict.fromkeys((item for item in Category if item is not Category.KV_CACHE), 0),
                Category.WEIGHTS: 1_000,
            },
        ),
        phases=(phase(Phase.FORWARD, 1, 700, 1_000),),
        top_modules=(TopModule(name=HOSTILE_TEXT, bytes=600), TopModule(name="a.#", bytes=400)),
        not_accounted=(Unaccounted(what=HOSTILE_TEXT, why=HOSTILE_TEXT),),
    ),
    fit=(
        dataclasses.replace(
            verdict(HOSTILE_TEXT, 4_000, -7, HOSTILE_TEXT),
            advice=_HOSTILE_ADVICE,
        ),
        verdict("a", 4_000, 0),
    ),
    search=Search(
        quantity="batch-size",
        gpu=HOSTILE_TEXT,
        value=2,
        fails=3,
        most=16_777_216,
        margin_bytes=0,
        traces=2,
        tried=(Tried(value=2, fits=True, total_bytes=4_900), Tried(value=3, fits=False, total_bytes=5_100)),
    ),
    warnings=(Notice(code="hostile", message=HOSTILE_TEXT),),
)

REPORTS = {
    "qwq-lora": QWQ_LORA,
    "deepseek-full": DEEPSEEK_FULL,
    "tied-with-warnings": TIED_WITH_WARNINGS,
    "count-only": COUNT_ONLY,
    "with-download": WITH_DOWNLOAD,
    "hostile": HOSTILE,
}
