"""Jobs: comparisons that are described in a file, run somewhere, and outlive whoever asked for them."""
