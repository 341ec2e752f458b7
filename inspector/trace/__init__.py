"""Meta model + recipe -> tape: the real training step on tensors without data, under CUDA's rules."""
