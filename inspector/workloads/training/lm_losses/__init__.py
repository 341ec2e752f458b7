"""Losses of causal language models that make no or few logits, as stand-ins after the libraries that have them.

Their Triton kernels write into tensors that are there already: what Python around a launch allocates is all that they
take. So nothing here computes a loss; each module allocates, keeps and frees what its source does, statement by
statement, and tests/workloads/test_lm_losses.py holds it against the library itself where that is installed.
"""
