"""The tests; what they run on is in support/."""
