"""Whether an answer to a maths question is right: extraction, exact comparison, symbolic comparison."""
