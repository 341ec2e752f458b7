"""axolotl's fused LoRA kernels: `functions` are its autograd functions, `layers` puts them into a model."""
