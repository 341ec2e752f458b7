"""What runs, on meta tensors or on a GPU: the seam for new kinds of run.

A workload says its phases, its inputs and its steps (`base.Workload`); `registry` names them all without loading their
code. Everything else is shared: how a model is loaded (`loading`, `quantized_load`), which batch it takes (`batch`),
autocast (`precision`), how a run becomes a tape (`run`). The tracer below knows nothing of any of them.
"""
