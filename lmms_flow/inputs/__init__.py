"""From a video and messages to what a model is given."""
