"""Tries the engine on every decoder family that transformers can build tiny, and writes docs/decoders.md."""
