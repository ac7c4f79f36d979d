"""What a question is wrapped in."""

BOXED = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
