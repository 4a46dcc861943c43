"""The report of a run: one HTML page without a network, and pictures of the same numbers."""
