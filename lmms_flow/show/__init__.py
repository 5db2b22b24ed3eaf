"""A flow before any run: what it cuts, drawn, and what a prefill costs under it."""
