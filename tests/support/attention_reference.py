"""Attention and its gradients in float64, by the softmax's own formulas."""
import numpy as np


def attention_float64(q, k, v, cotangent, segment_ids, *, scale: float, window: int = 0):
    """q and cotangent [B, K, G, T, E], k and v [B, K, T, E], segment_ids [B, T] -> the output, and the gradients of
    sum(cotangent * output) by q, k and v."""
    q, k, v, cotangent = (np.asarray(x, np.float64) for x in (q, k, v, cotangent))
    behind = np.arange(q.shape[3])[:, None] - np.arange(q.shape[3])[None]
    seen = (behind >= 0) & ((behind < window) | (window == 0)) & (segment_ids[:, :, None] == segment_ids[:, None])
    scores = np.where(seen[:, None, None], np.einsum("bkgtd,bksd->bkgts", q, k) * scale, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = np.einsum("bkgtd,bksd->bkgts", cotangent, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * scale
    return (np.einsum("bkgts,bksd->bkgtd", weights, v), np.einsum("bkgts,bksd->bkgtd", d_scores, k),
            np.einsum("bkgts,bkgtd->bksd", d_scores, q), np.einsum("bkgts,bkgtd->bksd", weights, cotangent))
