"""The generator of flowbench: clips (specs, render, encode), questions, and the benchmark itself (build)."""
