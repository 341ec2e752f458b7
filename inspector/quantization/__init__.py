"""Quantized weights: what bitsandbytes allocates, without the library, and what stored formats weigh.

`formats` and `bitsandbytes.products` are pure arithmetic; the rest is torch modules that stand in for those of
bitsandbytes.
"""
