"""Coarse first, exact later: comparisons that are guided by what sketches say of all pairs."""
