"""Draw a level of a channel in compiled code, from its pixel's parameters and Gumbel noise, as the likelihoods do in PyTorch."""
# mypy: allow-untyped-defs, allow-untyped-calls

import math

import numpy as np

from raypixel.sampling.compiled_loops import compiled


@compiled
def draw(flat, base, num_params, noise, temperature):
    """Return the level with the largest logit plus noise; one logit means levels 0 and 1."""
    if num_params == 1:
        return 1 if flat[base] / temperature + noise[1] > noise[0] else 0
    best, level = -np.inf, 0
    for k in range(num_params):
        score = flat[base + k] / temperature + noise[k]
        if score > best:
            best, level = score, k
    return level


@compiled
def _log_sigmoid(z):
    return min(z, 0.0) - math.log1p(math.exp(-abs(z)))


@compiled
def _log_bin(level, last, mean, inverse):
    """Return the log-probability of a level's bin under a logistic distribution; see `raypixel.nn.mixtures`."""
    upper, lower = (2.0 * level - last + 1.0) / last, (2.0 * level - last - 1.0) / last
    if level == 0:
        return _log_sigmoid((upper - mean) * inverse)
    if level == last:
        return _log_sigmoid((mean - lower) * inverse)
    inside = math.log(-math.expm1(-2.0 / last * inverse))
    return _log_sigmoid((upper - mean) * inverse) + _log_sigmoid((mean - lower) * inverse) + inside


@compiled
def draw_mixture(flat, base, num_mixtures, x, slot, c, i, j, noise, temperature, last, logits, p):
    """Return the level of channel c of a pixel with the largest log-probability plus noise, the channels before being given.

    A bin's probability is a difference of the logistic function at its edges, taken where both are small: on the right of the
    mean by symmetry. Computed in float64 with one exponential for each edge of each mixture.
    """
    channels = x.shape[1]
    most = -np.inf
    for k in range(num_mixtures):
        logits[k] = flat[base + k]
        for d in range(c):
            mean, scale = _logistic(flat, base, num_mixtures, channels, x, slot, d, i, j, k, last)
            logits[k] += _log_bin(x[slot, d, i, j], last, mean, scale)
        most = max(most, logits[k])
    total = 0.0
    for k in range(num_mixtures):
        total += math.exp(logits[k] - most)
    for level in range(last + 1):
        p[level] = 0.0
    for k in range(num_mixtures):
        weight = math.exp(logits[k] - most) / total
        mean, inverse = _logistic(flat, base, num_mixtures, channels, x, slot, c, i, j, k, last)
        # below holds s(edge), above 1 - s(edge) of the edge under a level
        below, above = 0.0, 1.0
        for level in range(last + 1):
            next_below, next_above = 1.0, 0.0
            if level < last:
                z = ((2.0 * level - last + 1.0) / last - mean) * inverse
                small = math.exp(-abs(z))
                tail = small / (1.0 + small)
                next_below = tail if z < 0.0 else 1.0 / (1.0 + small)
                next_above = 1.0 / (1.0 + small) if z < 0.0 else tail
            mass = above - next_above if above < 0.5 else next_below - below
            p[level] += weight * mass
            below, above = next_below, next_above
    best, drawn = -np.inf, 0
    for level in range(last + 1):
        score = math.log(p[level]) / temperature + noise[level] if p[level] > 0.0 else -np.inf
        if score > best:
            best, drawn = score, level
    return drawn


@compiled
def _logistic(flat, base, num_mixtures, channels, x, slot, c, i, j, k, last):
    """Return mean and inverse scale of a channel of a pixel in one mixture, the channels before being given."""
    mean = float(flat[base + (1 + c) * num_mixtures + k])
    pair = 1 + 2 * channels + c * (c - 1) // 2
    for d in range(c):
        coefficient = math.tanh(float(flat[base + (pair + d) * num_mixtures + k]))
        mean += coefficient * (x[slot, d, i, j] * (2.0 / last) - 1.0)
    log_scale = max(float(flat[base + (1 + channels + c) * num_mixtures + k]), -7.0)
    return mean, math.exp(-log_scale)
