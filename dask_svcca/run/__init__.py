"""What runs work: the checkpoints of a capture, the tasks of a plan."""
