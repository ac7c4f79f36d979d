"""Questions, from rows to prompts: sources -> questions -> prompts -> stream."""
