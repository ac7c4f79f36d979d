"""What a run will need, told before it starts, for devices that need not be there (README.md)."""
