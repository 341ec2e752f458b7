"""Questions of generations alone: prompts of other lengths, and the largest of what fits with all new tokens."""
