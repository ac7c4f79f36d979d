"""The same workloads for the other libraries, so that anyone can repeat the comparison with ours.

    common            model shapes, prompts, lengths, seeds, timing, the JSON line: the one definition (numpy only)
    hf                transformers' `generate`, and a plain torch training loop
    trl_grpo          TRL's GRPOTrainer, end to end
    tunix_grpo        Tunix: its sampler, its trainer, its GRPOLearner end to end
    alternate         runs several commands in turn, pinned alike, into one file of JSON lines

Each library has a virtual environment of its own, because their pins contradict each other:

    python3 -m venv ~/hf    && ~/hf/bin/pip install "torch==2.13.0" "transformers==5.23.0" accelerate
    python3 -m venv ~/trl   && ~/trl/bin/pip install "torch==2.13.0" trl
    python3 -m venv ~/tunix && ~/tunix/bin/pip install google-tunix "jax==0.10.2" "flax==0.12.8" "transformers==5.12"

A comparison, ours and theirs in turn on core 1, three times each, and its table:

    python -m experiments.peers.alternate --core 1 --rounds 3 --out results.jsonl \\
        ".venv/bin/python -m experiments.benchmark --model nano --task rollout" \\
        "$HOME/hf/bin/python -m experiments.peers.hf --model nano --task rollout"
    python -m experiments.benchmark --compare results.jsonl

Compare `value_cpu`, tokens per CPU-second of the process. On a pinned core that somebody else also
uses, wall time measures the neighbour. `contention` (wall / CPU) says how large the neighbour's
share was.
"""
