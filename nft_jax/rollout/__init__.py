"""Answers, sampled and judged.

engine      the loop of the sampler              schedule    which sample is in which slot, and refilling
ends        what ends an answer
cache       keys and values                      sampling    from logits to a token
slots       how many slots fit in memory         judged      answers with their verdicts
evaluation, estimators   held-out accuracy       answers, generate   answers without training
"""
