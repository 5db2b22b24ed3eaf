"""TVBench: its rows as questions, and its tasks."""
