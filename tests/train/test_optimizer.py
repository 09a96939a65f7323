import torch
from torch import nn

import pna
from pna.train.optimizer import create_optimizer, parameter_groups
from pna.train.recipe import OptimizerSection


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.encoder_like = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.bias_table = nn.Parameter(torch.zeros(2, 5, 5))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


ENCODER = {"encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"}


def groups_of(settings: OptimizerSection) -> dict[tuple[str, float], tuple[set[str], float]]:
    """Parameter names and learning rate by (part, weight decay)."""
    model = Network()
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        (g["name"], g["weight_decay"]): ({names[id(p)] for p in g["params"]}, g["lr"])
        for g in parameter_groups(model.named_parameters(), settings, ENCODER)
    }


def test_norms_biases_and_bias_tables_are_not_decayed() -> None:
    groups = groups_of(OptimizerSection(lr=1e-4, head_lr=5e-4, weight_decay=0.01))
    assert groups == {
        ("encoder", 0.01): ({"encoder.0.weight"}, 1e-4),
        ("encoder", 0.0): ({"encoder.0.bias", "encoder.1.weight", "encoder.1.bias"}, 1e-4),
        ("heads", 0.01): ({"encoder_like.weight"}, 5e-4),
        ("heads", 0.0): ({"norm.weight", "norm.bias", "bias_table"}, 5e-4),
    }


def test_one_learning_rate_serves_all_unless_told() -> None:
    assert {lr for _, lr in groups_of(OptimizerSection(lr=2e-4)).values()} == {2e-4}


def test_without_an_encoder_all_are_heads() -> None:
    parameters = nn.Linear(2, 2).named_parameters()
    groups = parameter_groups(parameters, OptimizerSection(head_lr=5e-4), ())
    assert [(g["name"], g["lr"], len(g["params"])) for g in groups] == [
        ("heads", 5e-4, 1),
        ("heads", 5e-4, 1),
    ]


def test_settings_reach_adamw_and_the_models_encoder_its_group() -> None:
    model = pna.create_model("lite", num_classes=3, encoder="resnet18", pretrained=False)
    settings = OptimizerSection(lr=1e-4, head_lr=5e-4, betas=(0.8, 0.95))
    optimizer = create_optimizer(model, settings)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)
    encoder = {id(p) for p in model.encoder.parameters()}
    for group in optimizer.param_groups:
        is_encoder = group["name"] == "encoder"
        assert group["lr"] == (1e-4 if is_encoder else 5e-4)
        assert all((id(p) in encoder) == is_encoder for p in group["params"])
