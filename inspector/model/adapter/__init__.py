"""PEFT configuration -> the model with its adapter, and notices about it."""
