"""Questions: where they come from, and the resumable stream of prompts that they become."""
