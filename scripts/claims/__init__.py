"""The experiments of `scripts/paper_claims.py`, a group a file."""
