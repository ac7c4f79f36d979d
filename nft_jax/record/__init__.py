"""What a run writes, and the one way it is read back."""
