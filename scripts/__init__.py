"""Scripts that make what the package ships; run them from the repository's root with `python -m scripts...`."""
