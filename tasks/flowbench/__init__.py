"""The bundled benchmark: its rows as questions, and its tasks."""
