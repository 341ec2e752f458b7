"""Headings of `--help`: which of the hundred options stand under which.

A command's options keep their order under each heading. Those that the table does not name are a command's own, and
come first.
"""

from __future__ import annotations

import click

__all__ = ["SECTIONS", "WithSections"]

SECTIONS: dict[str, frozenset[str]] = {
    heading: frozenset(options.split())
    for heading, options in {
        "Model": "--revision --dtype --quantization --double-quant --quant-storage --model-class --trust-remote-code "
        "--assume-defaults --offline",
        "Adapter": "--lora --targets --exclude-targets --modules-to-save --peft --autocast-adapter-dtype "
        "--adapter-dtype --preparation --lora-kernels",
        "What runs": "--workload --generate --engine --count-only --loop",
        "Batch": "--batch-size --seq-len --gradient-accumulation --padding --attention-mask --packing --images "
        "--image-size --videos --audio-seconds --frames --labels",
        "Training": "--mixed-precision --optimizer --optim-args --gradient-checkpointing --use-reentrant "
        "--checkpoint-every --checkpoint-keeps --offload --neftune --train-only --add-tokens --max-grad-norm --loss "
        "--liger",
        "Preference optimization, reward models and GRPO": "--stage --reference --prompt-len --completion-len "
        "--num-generations --vllm-share",
        "Generation": "--new-tokens --cache --prefill-chunk-size --generation --adapter --context",
        "Kernels and allocator": "--attention --sdpa-backend --kernels --use-cache --alloc-conf --torch",
        "GPU": "--gpu --gpu-memory --margin --fit --advice",
        "Several GPUs": "--gpus --fsdp --fsdp-version --deepspeed --device-map --tensor-parallel --expert-parallel "
        "--nodes --launch",
        "Training files": "--framework --base-model --strict --write-changes",
        "Serving engines (--engine)": "--max-model-len --max-num-seqs --max-num-batched-tokens "
        "--kv-cache-memory-bytes --tensor-parallel-size --block-size --context-length --max-running-requests "
        "--chunked-prefill-size --page-size --ctx-size --parallel --ubatch-size --n-gpu-layers "
        "--gpu-memory-utilization --mem-fraction-static --kv-cache-dtype --cache-type-k --cache-type-v --flash-attn "
        "--kv-unified --enforce-eager",
        "Output": "--details --show --depth --plot --json --format --output --extrapolate --no-cache --quiet "
        "--no-color --version --help",
    }.items()
}


class WithSections(click.Command):
    """A command whose help has its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        records: dict[str, list[tuple[str, str]]] = {"Options": [], **{heading: [] for heading in SECTIONS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                found = (heading for heading, options in SECTIONS.items() if not options.isdisjoint(parameter.opts))
                records[next(found, "Options")].append(record)
        for heading, lines in records.items():
            if lines:
                with formatter.section(heading):
                    formatter.write_dl(lines)
