"""Questions, from rows to prompts: sources -> questions -> prompts -> stream; arithmetic and benchmarks are sources."""
