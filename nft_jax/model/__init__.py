"""The decoder: pure functions of a plain dict of parameters, which `hf` reads and writes."""
