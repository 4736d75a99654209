"""Runs plans, on the scheduler of the user's choice."""
