"""What researchers ask of a comparison."""
