"""The benchmark's workloads for other libraries. How to compare: `experiments/benchmark/README.md`.

Each library has a virtual environment of its own, because their pins contradict each other:

    python3 -m venv ~/hf    && ~/hf/bin/pip install "torch==2.13.0" "transformers==5.23.0" accelerate
    python3 -m venv ~/trl   && ~/trl/bin/pip install "torch==2.13.0" trl
    python3 -m venv ~/tunix && ~/tunix/bin/pip install google-tunix "jax==0.10.2" "flax==0.12.8" "transformers==5.12"
"""
