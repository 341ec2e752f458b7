"""A rank of a run on several cards for real: under a launcher with the others, or alone on the one card at hand."""
