"""VCGBench's temporal questions: its rows as open questions, its task, and the flow of the words of its answers."""
