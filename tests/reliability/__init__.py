"""Every fault that a user can meet, with what is said: the tests that docs/evidence/reliability.md is made from."""
