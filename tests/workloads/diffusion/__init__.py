"""The training of denoisers."""
