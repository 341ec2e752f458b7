"""A module a framework: the table of its fields, how together they make a step, and how a change is spelt in them."""
