"""Feature laws: the distribution of a token's activations f, by its moments and its samples."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, random_key, real_array, whole
from svtheory.factorisations import eigenvalue_tolerance, symmetric_root
from svtheory.numerics import positive
from svtheory.pytrees import pytree


class Law:
    """A distribution of activations f in R^N, known by `mean`, a root of its covariance, and samples.

    Subclasses give `mean`, `covariance_root` and `sample`; the other moments follow.
    """

    size: int | property

    def mean(self) -> Array:
        """`mu = E f`, shape (N,)."""
        raise TypeError(f"{type(self).__name__} must define mean()")

    def covariance_root(self) -> Array:
        """`R` of shape (N, R) with `R R^T = V`; exact where V itself would lose half the digits."""
        raise TypeError(f"{type(self).__name__} must define covariance_root()")

    def sample(self, key: Array, shape: tuple[int, ...] = ()) -> Array:
        """Independent draws of f, shape (*shape, N)."""
        raise TypeError(f"{type(self).__name__} must define sample()")

    def root_rounding(self) -> Array:
        """How far `covariance_root` may be from exact beyond the rounding of its entries, spectral norm, a scalar."""
        return jnp.zeros((), self.mean().dtype)

    def covariance(self) -> Array:
        """`V = E (f - mu)(f - mu)^T`, shape (N, N)."""
        root = self.covariance_root()
        return jnp.matmul(root, root.T, precision="highest")

    def second_moment_root(self) -> Array:
        """`[R, mu]` of shape (N, R + 1), whose square is the second moment C."""
        return jnp.concatenate([self.covariance_root(), self.mean()[:, None]], axis=1)

    def second_moment(self) -> Array:
        """`C = E f f^T = V + mu mu^T`, shape (N, N)."""
        mu = self.mean()
        return self.covariance() + mu[:, None] * mu[None, :]


@pytree("size")
@dataclass(frozen=True)
class BernoulliUniform(Law):
    """Independent features, present with probability p and then uniform on (0, 1).

    Mean `p/2`, second moment `p/3`, variance `p/3 - p^2/4` of each feature (theory: "Setting and notation"; the paper's
    activations). `probability` is one number or one a feature, shape (N,); `size` is N.
    Raises InputError for a probability outside (0, 1].

    >>> law = BernoulliUniform(0.5, 3)
    >>> [round(float(x), 4) for x in (law.mean()[0], law.second_moment()[0, 0], law.covariance()[0, 1])]
    [0.25, 0.1667, 0.0]
    """

    probability: Array | float
    size: int

    def __post_init__(self):
        whole("size", self.size, 1)
        p = real_array("probability", self.probability)
        if p.ndim > 1 or (p.ndim == 1 and p.shape != (self.size,)):
            raise InputError(f"probability must be a number or have shape ({self.size},), got shape {p.shape}")
        if concrete(p) and not ((np.asarray(p) > 0) & (np.asarray(p) <= 1)).all():
            raise InputError(f"probability must lie in (0, 1], got {self.probability}")
        object.__setattr__(self, "probability", p)

    def _probabilities(self) -> Array:
        return jnp.broadcast_to(self.probability, (self.size,))

    def mean(self) -> Array:
        """`p/2`, shape (N,)."""
        return self._probabilities() / 2

    def covariance_root(self) -> Array:
        """`diag(sqrt(p/3 - p^2/4))`, shape (N, N)."""
        p = self._probabilities()
        return jnp.diag(jnp.sqrt(p / 3 - p**2 / 4))

    def sample(self, key: Array, shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape (*shape, N): one uniform u a feature, `f = u/p` if `u < p`, else 0."""
        random_key("key", key)
        u = jax.random.uniform(key, (*shape, self.size), self.mean().dtype)
        p = jnp.broadcast_to(self._probabilities(), u.shape)
        return jnp.where(u < p, u / p, 0)


@pytree("size")
@dataclass(frozen=True)
class OneHot(Law):
    """Exactly one feature is present, with value 1: `C = diag(p)`, `V = diag(p) - p p^T`.

    `size` is N; `probability` of shape (N,) sums to 1 and is uniform when left out.

    >>> print(OneHot(2).covariance().round(2))
    [[ 0.25 -0.25]
     [-0.25  0.25]]
    """

    size: int
    probability: Array | None = None

    def __post_init__(self):
        whole("size", self.size, 1)
        given = np.full(self.size, 1 / self.size) if self.probability is None else self.probability
        p = real_array("probability", given, ndim=1)
        if p.shape != (self.size,):
            raise InputError(f"probability must have shape ({self.size},), got shape {p.shape}")
        if concrete(p) and not (
            ((np.asarray(p) > 0) & (np.asarray(p) <= 1)).all() and abs(np.sum(np.asarray(p, float)) - 1) < 1e-5
        ):
            raise InputError(f"probability must lie in (0, 1] and sum to 1, got sum {float(p.sum())}")
        object.__setattr__(self, "probability", p)

    def mean(self) -> Array:
        """`p`, shape (N,)."""
        return jnp.asarray(self.probability)

    def covariance_root(self) -> Array:
        """`diag(sqrt p) Q`, shape (N, N - 1), with a basis Q of what is orthogonal to the unit vector `q = sqrt p`.

        Q are the last columns of the reflection that takes q to `-e_1`. For N = 1 the root is 0.
        """
        q = jnp.sqrt(self.mean())
        if self.size == 1:
            return 0 * q[:, None]
        mirror = q.at[0].add(1)  # |mirror|^2 = 2 (1 + q_1)
        return q[:, None] * (jnp.eye(self.size, dtype=q.dtype) - mirror[:, None] * mirror[None, :] / (1 + q[0]))[:, 1:]

    def sample(self, key: Array, shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, one-hot rows of shape (*shape, N)."""
        random_key("key", key)
        p = self.mean()
        return jax.nn.one_hot(jax.random.categorical(key, jnp.log(p), shape=shape), self.size, dtype=p.dtype)


@pytree()
@dataclass(frozen=True)
class Gaussian(Law):
    """`f ~ N(location, scatter)`: correlated features, with or without a mean.

    `location` has shape (N,); `scatter`, the covariance, shape (N, N), symmetric and positive semi-definite
    (it may be singular). Raises InputError otherwise.

    >>> Gaussian([0.0, 1.0], [[2.0, 1.0], [1.0, 2.0]]).second_moment().round(4).tolist()
    [[2.0, 1.0], [1.0, 3.0]]
    """

    location: Array
    scatter: Array

    def __post_init__(self):
        location = real_array("location", self.location, ndim=1)
        scatter = real_array("scatter", self.scatter, ndim=2)
        if scatter.shape != (location.size, location.size):
            raise InputError(f"scatter must have shape {(location.size,) * 2}, got {scatter.shape}")
        if concrete(scatter):
            v = np.asarray(scatter, np.float64)
            # entries of X X^T are off by up to eps |x_i| |x_j|, which adds up to eps times the trace
            tolerance = v.shape[0] * float(jnp.finfo(scatter.dtype).eps) * np.abs(v.diagonal()).sum()
            if np.abs(v - v.T).max() > tolerance or np.linalg.eigvalsh(v).min() < -tolerance:
                raise InputError("scatter must be symmetric and positive semi-definite, got a matrix that is not")
        object.__setattr__(self, "location", location)
        object.__setattr__(self, "scatter", scatter)

    @property
    def size(self) -> int:
        """The number of features N."""
        return self.location.shape[-1]

    def mean(self) -> Array:
        """`mu`, shape (N,)."""
        return self.location

    def covariance_root(self) -> Array:
        """`diag(d) C^{1/2}` of standard deviations d and correlations C, shape (N, N).

        Rounding of C is relative to 1: small variances keep their digits beside large ones.
        """
        d, C = self._correlation()
        return d[:, None] * symmetric_root(C)

    def root_rounding(self) -> Array:
        """`max d` times what the eigenvalues' rounding makes of their roots, most for the smallest that is not 0."""
        d, C = self._correlation()
        values = jnp.linalg.eigvalsh(lax.stop_gradient(C))
        cut = eigenvalue_tolerance(values)
        inside, rounding = values > cut, cut / 8
        kept = rounding / (2 * jnp.sqrt(jnp.where(inside, values, jnp.inf).min()))
        dropped = jnp.sqrt(jnp.where(~inside & (values > rounding), values, 0).max())
        return lax.stop_gradient(d.max()) * jnp.maximum(kept, dropped)

    def _correlation(self) -> tuple[Array, Array]:
        """Standard deviations (N,) and correlations (N, N); deviations below rounding beside the largest are raised."""
        variances = jnp.diagonal(self.scatter)
        least = variances.size * jnp.finfo(variances.dtype).eps * variances.max()
        d = lax.stop_gradient(jnp.sqrt(positive(jnp.maximum(variances, least))))
        return d, self.scatter / (d[:, None] * d[None, :])

    def sample(self, key: Array, shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape (*shape, N)."""
        random_key("key", key)
        root = self.covariance_root()
        normal = jax.random.normal(key, (*shape, root.shape[-1]), root.dtype)
        centred = jnp.matmul(normal, root.T, precision="highest")
        return jnp.broadcast_to(self.location, centred.shape) + centred
