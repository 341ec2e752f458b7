"""Report -> text, JSON, Markdown, HTML: each renderer sees a `Report` and nothing else."""
