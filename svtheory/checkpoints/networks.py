"""Networks: what a forward pass needs of a model, whatever it is read from."""

from typing import Any, Protocol

from svtheory.checkpoints.architecture import Architecture


class Network(Protocol):
    """A decoder whose forward pass can be run: its architecture, and weights by role, (out, in)."""

    @property
    def architecture(self) -> Architecture:
        """Sizes and options."""
        ...

    def layer(self, layer: int) -> dict[str, Any]:
        """All weights of one layer."""
        ...

    def inputs(self) -> dict[str, Any]:
        """The embedding (vocabulary, d_model), and positions (context, d_model) if learned."""
        ...

    def outputs(self) -> dict[str, Any]:
        """The unembedding (vocabulary, d_model), and the final norm and a bias b_U (vocabulary,) if there are any."""
        ...

    def require_unembedding(self) -> None:
        """Raise InputError where there is no unembedding."""
        ...
