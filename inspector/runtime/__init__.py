"""Every effect on the host process, in one place.

While a model is built or traced, these are other ones for the whole process, and put back afterwards, also where an
interrupt comes in between (`patches`):

- torch's default dtype (transformers' classes set it while they are built), its number of CPU threads, hooks on all
  modules and on their registration, the dispatch mode of the tracer;
- rules in torch's dispatcher for meta tensors (`AutogradMeta`, the unused autocast key), and functions of torch that
  ask for a device: `torch.autocast.__init__`, `is_autocast_enabled`, `get_autocast_dtype`, `clear_autocast_cache`,
  `torch.amp.is_autocast_available`, and those that choose foreach and fused kernels;
- of transformers: `PreTrainedModel.warn_if_padding_and_no_attention_mask`, what it has found of flash-attn and of
  bitsandbytes; of PEFT: whether it finds bitsandbytes, and its modules on it; `sys.modules["bitsandbytes"]`;
- `sys.stdout`, `sys.stderr`, warning filters and the levels of the libraries' loggers (`quiet`);
- `HF_HUB_OFFLINE` of huggingface_hub, and in the environment `HF_DEACTIVATE_ASYNC_LOAD`; for a plan of the command
  line `CUDA_VISIBLE_DEVICES`, for a measurement `PYTORCH_CUDA_ALLOC_CONF`;
- the cyclic garbage collector, which pauses.

Calls take turns under one lock. Where the process has other threads, the Python API does all of this in a worker
process instead (`isolation`, `worker`). A plan forks processes of its own (`processes`). The processes of `inspect app`
are confined for good in what they open and whom they ask (`confinement`).

What stays: modules that were imported, caches of the libraries, and, of the command alone, its answer to Ctrl-C and a
collector that is off (`inspector.cli.main`).
"""
