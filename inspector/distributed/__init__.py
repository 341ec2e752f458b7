"""One rank of a distributed run on meta: torch.distributed's own code, with a process group that sends nothing."""
