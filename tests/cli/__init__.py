"""What the command does: exit codes, one line for every error, and the reports it writes."""
