"""How many small bugs the tests notice: python -m scripts.mutate."""
