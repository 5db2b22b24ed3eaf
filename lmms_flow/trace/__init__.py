"""What is read out of a model's runs: curves of knockouts, and the pathway that follows from them."""

from .discovery import LayerBins, mean_relative_change, scaled_to_depth

__all__ = ["LayerBins", "mean_relative_change", "scaled_to_depth"]
