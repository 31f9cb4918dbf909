"""A backbone's layers, cut into stages."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LayersOfStages:
    """The layers of a network without its classifier, in order, and where its four stages end.

    `last_layers` are the positions in `layers` of the last layer of each stage.
    """

    layers: list[nn.Module]
    last_layers: list[int]

    def __post_init__(self) -> None:
        is_ascending = self.last_layers == sorted(set(self.last_layers))
        if len(self.last_layers) != 4 or not is_ascending:
            raise ValueError(
                f"a backbone must have four stages with ascending ends, got {self.last_layers}"
            )
        if not 0 <= self.last_layers[0] <= self.last_layers[-1] < len(self.layers):
            raise ValueError(
                f"stages must end within the {len(self.layers)} layers, got {self.last_layers}"
            )

    def cut(self) -> list[nn.Sequential]:
        """Return the four stages; layers behind the last one are left out."""
        stages = []
        start = 0
        for last_layer in self.last_layers:
            end = last_layer + 1
            stages.append(nn.Sequential(*self.layers[start:end]))
            start = end
        return stages
