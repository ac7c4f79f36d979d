"""Texts that make a question a prompt, for `data.template`. The verifier reads the last \\boxed{} of an answer, so
each of them asks for one.

A chat model gets its template as the user's message. A model without a chat template continues it as it is: README.md
of this folder."""

BOXED = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
DAPO = ("Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "\\boxed{$Answer} where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your answer on "
        "its own line after \"Answer:\".")
"""The prompt of DAPO-Math-17k (Q. Yu et al., arXiv 2503.14476) in the boxed form of
zhuzilin/dapo-math-17k. The paper trains with it, and asks AIME and AMC with it."""

R1_ZERO = ("Below, a user puts a question and an assistant solves it. The assistant first thinks it through between "
           "<think> and </think>. It then gives the result between <answer> and </answer>, as \\boxed{result}.\n\n"
           "User: {problem}\nAssistant: <think>")
"""A whole prompt for a base model, in the form of DeepSeek-R1-Zero's (DeepSeek-AI, arXiv 2501.12948, table 1), in our
words. Answers end with rollout.stop </answer>."""

FEW_SHOT = ("Question: A box holds 6 pens, and each pen costs 2 euros. What do 3 boxes cost?\n"
            "Answer: 3 boxes hold 3 * 6 = 18 pens. They cost 18 * 2 = 36 euros. \\boxed{36}\n\n"
            "Question: Ann reads 15 pages a day. How many days does she need for a book of 180 pages?\n"
            "Answer: She needs 180 / 15 = 12 days. \\boxed{12}\n\n"
            "Question: A shirt of 40 euros is sold for a quarter less. What does it cost?\n"
            "Answer: A quarter of 40 is 10. It costs 40 - 10 = 30 euros. \\boxed{30}\n\n"
            "Question: {problem}\nAnswer:")
"""A whole prompt for a base model: three worked examples. It would go on with questions of its own, so answers end with
rollout.stop "Question:"."""
