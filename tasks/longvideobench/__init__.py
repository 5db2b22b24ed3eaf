"""LongVideoBench: its rows as questions, and its tasks."""
