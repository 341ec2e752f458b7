"""Document -> text, Markdown, HTML, JSON."""
