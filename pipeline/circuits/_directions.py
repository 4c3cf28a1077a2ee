"""Ways to find one direction along which the states of two classes differ, from the states alone.

As in Tigges et al. 2023 (arXiv 2310.15154), section 2.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.utils.draws import Draws

Floats = npt.NDArray[np.float64]
MEAN, KMEANS, PCA, LOGISTIC, RANDOM = "mean difference", "k-means", "PCA", "logistic", "random"
STARTS, ROUNDS = 10, 50  # of k-means
FLAT = 1e-10  # of the power of states; less variance than this is rounding


def directions(states: Floats, first: npt.NDArray[np.bool_], seed: int) -> dict[str, Floats]:
    """Unit vectors (D,) by how they were found, on which the mean of the first class lies above that of the other.

    Args:
        states: Of the prompts at one place, (n, D).
        first: Which prompts are of the first class, (n,); there are some of each.
        seed: Of the starts of k-means and of the random direction.

    Returns:
        Vectors of zeros where all states are alike.
    """
    centred = states - states.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    known = sizes**2 > FLAT * (states**2).sum()
    axes = axes[known]  # (r, D), an orthonormal basis of all that varies
    points = centred @ axes.T  # (n, r)
    gap = points[first].mean(axis=0) - points[~first].mean(axis=0) if known.any() else np.zeros(0)
    found = {
        MEAN: gap,
        KMEANS: _between_centres(points, seed),
        PCA: np.eye(len(axes))[0] if known.any() else gap,
        LOGISTIC: _logistic(points, first),
    }
    draws = Draws(seed, "random direction")
    # Sums of twelve uniform numbers are as good as normal.
    anywhere = draws.uniform(states.shape[1], 12).sum(axis=1) - 6
    vectors = {name: vector @ axes for name, vector in found.items()}
    vectors[RANDOM] = anywhere if known.any() else np.zeros_like(anywhere)
    difference = gap @ axes
    return {name: _unit(vector * (-1 if vector @ difference < 0 else 1)) for name, vector in vectors.items()}


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _between_centres(points: Floats, seed: int) -> Floats:
    """From one centre of two clusters to the other, (r,): the best of several starts."""
    draws = Draws(seed, "k-means")
    best, least = np.zeros(points.shape[1]), np.inf
    for _ in range(STARTS if len(points) > 1 else 0):
        centres = points[draws.choose(len(points), 2)]
        for _ in range(ROUNDS):
            distance = ((points[:, None] - centres) ** 2).sum(axis=2)  # (n, 2)
            near = distance.argmin(axis=1)
            new = np.stack([points[near == i].mean(axis=0) if (near == i).any() else centres[i] for i in (0, 1)])
            if np.array_equal(new, centres):
                break
            centres = new
        if (spread := distance.min(axis=1).sum()) < least:
            least, best = float(spread), centres[0] - centres[1]
    return best


def _logistic(points: Floats, first: npt.NDArray[np.bool_]) -> Floats:
    """The weights of a logistic regression with an intercept, (r,), by Newton's method.

    The penalty is half of their squared norm, after all coordinates have been divided by one number that makes the mean
    squared distance from the middle 1: then it means the same for states of any size.
    """
    scale = np.sqrt((points**2).sum() / len(points)) if points.size else 1.0
    inputs = np.column_stack([points / scale, np.ones(len(points))])
    penalty = np.append(np.ones(points.shape[1]), 1e-6)
    weights = np.zeros(inputs.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-(inputs @ weights).clip(-30, 30)))
        slope = inputs.T @ (chance - first) + penalty * weights
        bend = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + np.diag(penalty)
        move = np.linalg.solve(bend, slope)
        weights = weights - move
        if np.abs(move).max() < 1e-9:
            break
    return np.asarray(weights[:-1], np.float64)
