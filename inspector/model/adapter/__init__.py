"""PEFT configuration -> the model with its adapter, and what to say about it."""
