"""The tests, and the small models, checkpoints, clips and hub that they run on."""
