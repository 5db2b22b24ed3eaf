"""Runs the conformance suite on a tiny checkpoint of every family, and writes docs/families.md."""
