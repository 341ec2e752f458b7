"""Sections of the report, by what they say; `SECTIONS` are the names by which one asks for them."""

from inspector.workloads.registry import WORKLOADS

__all__ = ["SECTIONS"]

# In the order in which they are printed. The names are the keys of the JSON; what runs is named by its workload.
SECTIONS = (
    *("source", "search", "fit", *WORKLOADS, "serving", "quantization", "parameters", "adapter"),
    *("checkpoint", "static", "textbook", "tree", "warnings"),
)
