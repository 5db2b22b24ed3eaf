"""The small models, checkpoints, clips, documents and hub that the tests run on."""
