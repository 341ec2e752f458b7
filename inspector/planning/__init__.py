"""Questions that take several predictions: search, advice, plan, comparison."""
