"""Video-MME: its rows as questions, and its tasks."""
