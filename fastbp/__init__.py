"""Hand-derived neural-network training, compiled by Numba."""
