"""Checkpoints that are told in another form than transformers' own, brought into its classes."""
