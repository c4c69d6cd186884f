"""What single notebooks measure and draw, each file named for its notebook or for the first of several."""
