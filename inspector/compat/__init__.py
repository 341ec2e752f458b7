"""Every private name of torch, transformers and PEFT that the inspector uses: purpose, what to do without it, probe.

A private name may go with any release. Each is declared once, in the file of its library, and the rest of the inspector
imports it from there (tests/contracts/test_private_names.py). One that is gone stops only what needs it, with one
sentence (`CompatibilityError`). `verified` says with which releases the inspector was verified.
"""
