"""What runs work: each checkpoint of a capture, each task of a plan."""
