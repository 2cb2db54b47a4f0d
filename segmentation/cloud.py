"""A Mahalanobis distance from studies that are known, with a threshold from studies that it does not rest on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PERCENTILE, _MARGIN = 95, 1.1
_RIDGE = 0.01  # of unit variance: the covariance of a handful of studies may be singular all the same
_STILL = 0.1  # a number that varies less than this share of the usual is scaled as if it varied so much


@dataclass(frozen=True, eq=False)
class Cloud:
    """Where known studies lie in a description of D numbers.

    Attributes:
        mean: (D,).
        scale: (D,), the standard deviations, by which everything is divided first.
        covariance: (D, D), Ledoit-Wolf's, of the scaled numbers.
        others: (N,), distances of studies that the description does not rest on.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    covariance: NDArray[np.float32]
    others: NDArray[np.float32]

    @property
    def threshold(self) -> float:
        """The distance beyond which a study is unlike the known: 1.1 times the 95th percentile of the others'."""
        return _MARGIN * float(np.percentile(self.others, _PERCENTILE))

    def distances(self, studies: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the Mahalanobis distances (N,) of descriptions (N, D)."""
        scaled = (np.asarray(studies, np.float64) - self.mean) / self.scale
        solved = np.linalg.solve(self.covariance.astype(np.float64), scaled.T)
        return np.sqrt(np.einsum("nd,dn->n", scaled, solved))


def fit_cloud(training: NDArray[np.floating], patients: NDArray[np.str_], validation: NDArray[np.floating]) -> Cloud:
    """Return the cloud of training studies.

    Args:
        training: (N, D), of four patients or more.
        patients: (N,), whose studies they are: each patient in turn is left out to see how far he is from the others.
        validation: (M, D), of other patients; M may be 0.
    """
    cloud = _cloud(training)
    distances = [cloud.distances(validation)]
    for patient in np.unique(patients):
        own = patients == patient
        distances.append(_cloud(training[~own]).distances(training[own]))
    return Cloud(cloud.mean, cloud.scale, cloud.covariance, np.concatenate(distances).astype(np.float32))


def _cloud(studies: NDArray[np.floating]) -> Cloud:
    spread = studies.std(axis=0)
    scale = np.maximum(spread, max(_STILL * float(spread.mean()), 1e-6)).astype(np.float32)
    mean = studies.mean(axis=0).astype(np.float32)
    from sklearn.covariance import LedoitWolf  # a second, which only who remembers studies needs

    covariance = LedoitWolf(assume_centered=True).fit((studies - mean) / scale).covariance_
    covariance += _RIDGE * np.eye(len(mean))
    return Cloud(mean, scale, covariance.astype(np.float32), np.empty(0, np.float32))
