"""The commands, one file each: what a command takes, and the work that it then does."""
