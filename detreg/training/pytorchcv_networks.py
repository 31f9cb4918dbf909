"""Networks of pytorchcv, which is imported only where a base model has one."""

from pytorchcv import model_provider

from detreg.training.network_stages import LayersOfStages


def create_layers(name: str, pretrained: bool) -> LayersOfStages:
    """Return the layers of a network; with `pretrained`, its ImageNet weights are downloaded."""
    features = model_provider.get_model(name, pretrained=pretrained).features
    layers = [features.init_block, features.stage1, features.stage2, features.stage3]
    return LayersOfStages(layers, [0, 1, 2, 3])
