"""Mutants that change nothing that can be seen, each with the reason; they are left out of the score."""

EQUIVALENT: dict[str, str] = {}
