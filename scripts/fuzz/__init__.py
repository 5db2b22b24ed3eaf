"""Hostile inputs of every kind that the package reads; only its own errors may come out: python -m scripts.fuzz."""
