"""The training of a denoiser of diffusers: its loss, and what a run of it does not have."""
