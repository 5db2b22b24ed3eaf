"""What works on this machine, and what to do where something does not."""
