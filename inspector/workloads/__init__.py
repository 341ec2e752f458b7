"""What runs, on meta tensors or on a GPU: the seam for new kinds of run."""
