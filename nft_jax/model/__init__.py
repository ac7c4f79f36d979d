"""The decoder as pure functions of a plain parameter dict: config, forward passes, log-probs, Hugging Face folders."""
