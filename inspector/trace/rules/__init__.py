"""What CUDA does otherwise than meta, installed for the time of a trace."""
