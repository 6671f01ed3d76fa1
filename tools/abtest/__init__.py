"""Live tests: who sees which arm, and what may be concluded. They are run elsewhere.

Read in this order: `surfaces/online.py` and `plan` (what is measured and promised beforehand),
`surfaces/assignment.py` and `provider` (who sees which arm), `sufficient` (one SQL query per reading),
`quality`, `effects`, `sequential` and `guardrails` (what the numbers say), `power` (what they could say at
all), `decision` (what follows).
"""
