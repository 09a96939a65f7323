"""`pna.cascade` finds the levels of a network's encoder, or refuses."""

import itertools
import weakref

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import pna
from small_networks import Encoder, K, conv, up, wrap


class Stages(nn.Module):
    """Four strided stages, each with a dilated convolution."""

    def __init__(self, dilation):
        super().__init__()
        self.stem = conv(3, 16, 2)
        widths = (16, 24, 32, 48, 64)
        for n in range(4):
            stage = nn.Sequential(
                conv(widths[n], widths[n + 1], 2), conv(widths[n + 1], widths[n + 1], 1, dilation)
            )
            setattr(self, f"stage{n + 1}", stage)
        self.head = nn.Conv2d(64, K, 1)

    def forward(self, images):
        x = self.stem(images)
        for n in range(1, 5):
            x = getattr(self, f"stage{n}")(x)
        return up(self.head(x), images)


@pytest.mark.parametrize("dilation", [1, 2, 3, 4, 8])
def test_dilation_inside_of_strided_stages_hides_no_level(dilation):
    model = wrap(Stages(dilation))
    assert model.features_from == ("stage1", "stage2", "stage3", "stage4")
    assert model.strides == (4, 8, 16, 32)


def test_dilation_instead_of_a_stride_makes_a_level():
    class Dilated(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.layer1, self.layer2 = conv(3, 8, 2), conv(8, 12, 2), conv(12, 16, 2)
            self.layer3, self.layer4 = conv(16, 24, 1, 2), conv(24, 32, 1, 4)
            self.aspp, self.head = conv(32, 16, 1, 12), nn.Conv2d(16, K, 1)

        def forward(self, images):
            x = self.layer2(self.layer1(self.stem(images)))
            return up(self.head(self.aspp(self.layer4(self.layer3(x)))), images)

    model = wrap(Dilated())
    assert model.features_from == ("layer1", "layer2", "layer3", "layer4")
    assert (model.strides, model.divisor) == ((4, 8, 8, 8), 8)


def test_dilated_blocks_belong_to_the_level_they_work_on():
    """As in VAN: a strided embedding, then large kernels made of dilated ones."""

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.ModuleList(
                [nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, 2, 1)]
            )
            self.block = nn.ModuleList(conv(c, c, 1, 3, kernel=7) for c in (8, 12, 16))
            self.head = nn.Conv2d(16, K, 1)

        def forward(self, images):
            x = images
            for embed, block in zip(self.embed, self.block, strict=True):
                x = block(embed(x))
            return up(self.head(x), images)

    assert wrap(Blocks()).features_from == ("block.0", "block.1", "block.2")


class Ring(nn.Module):
    """A small U: down by some steps and up again, as the stages of U2-Net."""

    def __init__(self, inputs, outputs, steps):
        super().__init__()
        self.first = conv(inputs, outputs)
        self.down = nn.ModuleList(conv(outputs, outputs) for _ in range(steps))
        self.up = nn.ModuleList(conv(outputs, outputs) for _ in range(steps))

    def forward(self, x):
        kept = [self.first(x)]
        for down in self.down:
            kept.append(down(F.max_pool2d(kept[-1], 2, ceil_mode=True)))
        y = kept.pop()
        for rise in self.up:
            skip = kept.pop()
            y = skip + rise(up(y, skip))
        return y


def test_the_inside_of_a_stage_is_no_encoder():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            widths = (3, 12, 12, 12, 12, 12)
            steps = (5, 4, 3, 2, 1)
            self.stages = nn.ModuleList(
                Ring(a, b, n) for a, b, n in zip(widths, widths[1:], steps, strict=False)
            )
            self.decoder = nn.ModuleList(Ring(24, 12, n) for n in (2, 3, 4, 5))
            self.head = nn.Conv2d(12, K, 1)

        def forward(self, images):
            kept, x = [], images
            for n, stage in enumerate(self.stages):
                x = stage(F.max_pool2d(x, 2) if n else x)
                kept.append(x)
            y = kept.pop()
            for decode in self.decoder:
                skip = kept.pop()
                y = decode(torch.cat([up(y, skip), skip], 1))
            return self.head(y)

    model = wrap(Nested())
    assert model.features_from == ("stages.2", "stages.3", "stages.4")
    assert model.strides == (4, 8, 16)


@pytest.mark.parametrize("kind", ["gate", "side", "lateral", "wide gate"])
def test_what_hangs_on_a_level_is_no_level(kind):
    class Hung(Encoder):
        def __init__(self):
            super().__init__()
            widths = (8, 12, 16, 24)
            outputs = {"gate": (1,) * 4, "side": (1,) * 4, "lateral": (6,) * 4}.get(kind, widths)
            self.hung = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 1), nn.Sigmoid() if "gate" in kind else nn.Identity())
                for a, b in zip(widths, outputs, strict=True)
            )
            self.head = nn.Conv2d(60 + sum(outputs), K, 1)

        def forward(self, images):
            kept, x = [], images
            for step, hung in zip((self.e1, self.e2, self.e3, self.e4), self.hung, strict=True):
                x = step(x)
                y = hung(x)
                if "gate" in kind:
                    x = x * y
                kept += [x, y]
            return up(self.head(torch.cat([up(x, kept[0]) for x in kept], 1)), images)

    assert wrap(Hung()).features_from == ("e2", "e3", "e4")


@pytest.mark.parametrize("num_classes", [12, 16])
def test_a_level_may_have_as_many_channels_as_there_are_classes(num_classes):
    model = wrap(Encoder(num_classes), num_classes)
    assert model.features_from == ("e2", "e3", "e4")
    assert model.coarse_from == "head"


def test_nor_does_torchvisions_mobilenet_lose_one():
    network = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=24
    )
    model = wrap(network, 24, freeze=True)
    assert model.strides == (4, 8, 16, 16)


def test_scores_are_no_level():
    """FCN-8s: more classes than channels, and the scores are added and upsampled by layers."""

    class FCN8s(Encoder):
        def __init__(self, num_classes):
            super().__init__(num_classes)
            self.score8 = nn.Conv2d(16, num_classes, 1)
            self.up2 = nn.ConvTranspose2d(num_classes, num_classes, 2, 2)
            self.up8 = nn.ConvTranspose2d(num_classes, num_classes, 8, 8)

        def forward(self, images):
            _, _, c, d = self.steps(images)
            return self.up8(self.up2(self.head(d)) + self.score8(c))

    model = wrap(FCN8s(40), 40)
    assert model.features_from == ("e2", "e3", "e4")
    assert (model.coarse_from, model.coarse_stride) == ("", 1)


class Tokens(nn.Module):
    """Transformer layers on a convolutional stem: all of it is at stride 16."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 2), conv(8, 12, 2), conv(12, 16, 2), conv(16, 32, 2))
        layers = [nn.TransformerEncoderLayer(32, 2, 48, 0.0, batch_first=True) for _ in range(3)]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Conv2d(32, K, 1)

    def forward(self, images):
        x = self.stem(images)
        y = self.blocks(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        return up(self.head(y), images)


def test_the_stem_of_a_transformer_is_no_encoder():
    with pytest.raises(
        pna.PnaError,
        match=r"^found no features that come out of the encoder of Tokens: .*name them",
    ):
        wrap(Tokens())
    model = wrap(Tokens(), features=["stem.1", "stem.2", "stem.3"])  # named, they are taken
    assert model.strides == (4, 8, 16)


@pytest.mark.parametrize("returns", [False, True])
def test_stages_on_tokens(returns):
    """As in PVT: the maps that modules return are embeddings; what the blocks make of them is not.

    Where the encoder hands out its levels as maps, they are taken.
    """

    class Hierarchy(nn.Module):
        def __init__(self):
            super().__init__()
            widths = (3, 16, 32, 48)
            self.embed = nn.ModuleList(
                nn.Conv2d(a, b, 3, 4 if a == 3 else 2, 1) for a, b in itertools.pairwise(widths)
            )
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(w, 2, 48, 0.0, batch_first=True) for w in widths[1:]
            )

        def forward(self, images):
            maps, x = [], images
            for embed, block in zip(self.embed, self.blocks, strict=True):
                x = embed(x)
                x = block(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
                maps.append(x)
            return maps

    class Flat(Hierarchy):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(48, K, 1)

        def forward(self, images):
            return up(self.head(super().forward(images)[-1]), images)

    if returns:
        model = wrap(OnMaps(Hierarchy(), 96))
        assert model.features_from == ("encoder[0]", "encoder[1]", "encoder[2]")
    else:
        with pytest.raises(pna.PnaError, match=r"^found no features .* of Flat: its blocks work"):
            wrap(Flat())


def test_nor_is_that_of_xcit():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = timm.create_model("xcit_nano_12_p16_224", features_only=True, depth=3)
            self.head = nn.Conv2d(128, K, 1)

        def forward(self, images):
            return self.head(self.body(images)[-1])

    with pytest.raises(pna.PnaError, match=r"^found no features that come out of the encoder of"):
        wrap(Net())


def test_stages_in_one_module_after_a_stem():
    """As in ConvNeXt: the first stage works at the stride of the stem."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv(3, 8, 4, kernel=5)
            self.stages = nn.Sequential(
                conv(8, 8), conv(8, 12, 2), conv(12, 16, 2), conv(16, 24, 2)
            )
            self.head = nn.Conv2d(24, K, 1)

        def forward(self, images):
            return up(self.head(self.stages(self.stem(images))), images)

    assert wrap(Net()).features_from == ("stages.0", "stages.1", "stages.2", "stages.3")


def test_isotropic_blocks_after_a_stem_are_its_last_level():
    class Isotropic(Encoder):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*(conv(24, 24) for _ in range(8)))

        def forward(self, images):
            return up(self.head(self.blocks(self.steps(images)[-1])), images)

    assert wrap(Isotropic()).features_from == ("e2", "e3", "blocks")


class Exchange(nn.Module):
    """A module of HRNet: each branch gets all branches, resized."""

    def __init__(self, widths):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(conv(w, w), conv(w, w)) for w in widths)
        self.fuse = nn.ModuleList(nn.Conv2d(sum(widths), w, 1) for w in widths)

    def forward(self, maps):
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [
            fuse(torch.cat([up(y, x) for y in maps], 1))
            for fuse, x in zip(self.fuse, maps, strict=True)
        ]


class HighResolution(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (8, 16, 32, 64)
        self.stem = nn.Sequential(conv(3, 8, 2), conv(8, 8, 2))
        self.transitions = nn.ModuleList(conv(a, b, 2) for a, b in itertools.pairwise(widths))
        self.stage2, self.stage3 = Exchange(widths[:2]), Exchange(widths[:3])
        self.stage4 = nn.Sequential(Exchange(widths), Exchange(widths), Exchange(widths))

    def forward(self, images):
        maps = [self.stem(images)]
        for transition, stage in zip(
            self.transitions, (self.stage2, self.stage3, self.stage4), strict=True
        ):
            maps = stage([*maps, transition(maps[-1])])
        return maps


class OnMaps(nn.Module):
    """A head on all maps of an encoder."""

    def __init__(self, encoder, channels):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(channels, K, 1)

    def forward(self, images):
        maps = self.encoder(images)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        return up(self.head(torch.cat([up(x, maps[0]) for x in maps], 1)), images)


def test_branches_that_exchange_their_maps():
    """HRNet: the maps that the encoder returns, not those of its first module."""
    model = wrap(OnMaps(HighResolution(), 120))
    assert model.features_from == tuple(f"encoder[{n}]" for n in range(4))
    assert model.strides == (4, 8, 16, 32)
    behind = {name for name in model.encoder_parameters() if ".stage4." in name}
    stage4 = {name for name, _ in model.named_parameters() if ".stage4." in name}
    assert behind == stage4


def test_a_head_may_need_the_last_of_them_alone():
    class Last(OnMaps):
        def forward(self, images):
            return up(self.head(self.encoder(images)[-1]), images)

    assert wrap(Last(HighResolution(), 64)).features_from == tuple(
        f"encoder[{n}]" for n in range(4)
    )


def test_two_encoders_side_by_side():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoders = nn.ModuleList(Encoder() for _ in range(3))
            self.head = nn.Conv2d(3 * 24, K, 1)

        def forward(self, images):
            maps = [encoder.steps(images)[-1] for encoder in self.encoders]
            return up(self.head(torch.cat(maps, 1)), images)

    with pytest.raises(pna.PnaError, match=r"^found no features that come out of the encoder of"):
        wrap(Two())


def test_an_fpn_is_no_encoder():
    model = wrap(OnMaps(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 5 * 256))
    assert model.features_from == tuple(f"encoder.body['{n}']" for n in range(4))
    assert model.strides == (4, 8, 16, 32)


class Pyramid(nn.Module):
    """Three steps; the last two or three maps are returned."""

    def __init__(self, returned=3):
        super().__init__()
        self.stem = conv(3, 8, 2)
        self.layers = nn.ModuleList([conv(8, 12, 2), conv(12, 16, 2), conv(16, 24, 2)])
        self.returned = returned

    def forward(self, images):
        x, maps = self.stem(images), []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps[-self.returned :]


def test_a_context_path_is_opened():
    """BiSeNet: a module returns decoded maps, and its encoder is inside."""

    class Context(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Pyramid(returned=2)
            self.arm16, self.arm8 = conv(24, 16, kernel=1), conv(16, 16, kernel=1)

        def forward(self, images):
            c8, c16 = self.backbone(images)
            y16 = self.arm16(c16)
            return self.arm8(c8) + up(y16, c8), y16

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.context, self.spatial = Context(), nn.Sequential(conv(3, 8, 4), conv(8, 16, 2))
            self.head = nn.Conv2d(32, K, 1)

        def forward(self, images):
            return up(
                self.head(torch.cat([self.context(images)[0], self.spatial(images)], 1)), images
            )

    model = wrap(Net())
    assert model.strides == (4, 8, 16)
    assert model.features_from == (
        "context.backbone.layers.0",
        "context.backbone.layers.1",
        "context.backbone[1]",
    )


def test_a_head_that_pools_further_is_no_level():
    class Deeper(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(24, 24)

        def forward(self, x):
            return up(self.conv(F.avg_pool2d(x, 2)), x)

    class Net(Encoder):
        def __init__(self):
            super().__init__()
            self.context = Deeper()

        def forward(self, images):
            return up(self.head(self.context(self.steps(images)[-1])), images)

    assert wrap(Net()).features_from == ("e2", "e3", "e4")


def test_a_pooling_head_after_an_encoder_is_no_level():
    """PSPNet: wider than the encoder's last map, and at its stride."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.pool, self.head = Pyramid(), conv(24, 64), nn.Conv2d(64, K, 1)

        def forward(self, images):
            return up(self.head(self.pool(self.encoder(images)[-1])), images)

    assert wrap(Net()).features_from == ("encoder[0]", "encoder[1]", "encoder[2]")


def test_two_branches():
    """Fast-SCNN: a shallow one to stride 8, a deep one from there to stride 32."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Sequential(conv(3, 8, 2), conv(8, 12, 2), conv(12, 16, 2))
            self.deep = nn.Sequential(conv(16, 24, 2), conv(24, 32, 2), conv(32, 32))
            self.lateral, self.head = nn.Conv2d(16, 32, 1), nn.Conv2d(32, K, 1)

        def forward(self, images):
            fine = self.fine(images)
            return self.head(self.lateral(fine) + up(self.deep(fine), fine))

    model = wrap(Net())
    assert model.features_from == ("fine.1", "fine.2", "deep.0", "deep.2")
    assert model.strides == (4, 8, 16, 32)


def test_a_branch_beside_the_encoder():
    """DDRNet: a branch stays at stride 8, and the deep one goes on."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Sequential(conv(3, 8, 2), conv(8, 8, 2))
            self.layer1, self.layer2 = conv(8, 8), conv(8, 16, 2)
            self.layer3, self.layer4 = conv(16, 24, 2), conv(24, 32, 2)
            self.fine3, self.fine4 = conv(16, 16), conv(16, 16)
            self.context, self.head = conv(32, 16), nn.Conv2d(16, K, 1)

        def forward(self, images):
            x = self.layer2(self.layer1(self.conv1(images)))
            deep, fine = self.layer3(x), self.fine3(x)
            deep, fine = self.layer4(deep), self.fine4(fine)
            return self.head(fine + up(self.context(deep), fine))

    assert wrap(Net()).features_from == ("layer1", "layer2", "layer3", "layer4")


def test_a_network_that_holds_itself():
    """Each module of pix2pix's U-Net holds the next: only the innermost has two levels."""

    class Skip(nn.Module):
        def __init__(self, outer, inner, inside=None):
            super().__init__()
            inside = [inside] if inside else []
            self.model = nn.Sequential(
                nn.LeakyReLU(0.2, True),
                nn.Conv2d(outer, inner, 4, 2, 1),
                *inside,
                nn.ReLU(True),
                nn.ConvTranspose2d(inner * (1 + len(inside)), outer, 4, 2, 1),
            )

        def forward(self, x):
            return torch.cat([x, self.model(x)], 1)

    inside = Skip(16, 32, Skip(32, 48, Skip(48, 48)))
    network = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), inside, nn.ConvTranspose2d(32, K, 4, 2, 1))
    model = wrap(network)
    innermost = "1.model.2.model.2.model"
    assert model.features_from == (f"{innermost}.0", f"{innermost}.2")
    assert model.strides == (8, 16)


def test_a_map_that_the_logits_do_not_need_is_no_level():
    class Auxiliary(Encoder):
        def __init__(self):
            super().__init__()
            self.e5, self.boundary = conv(24, 32, 2), nn.Conv2d(32, 1, 1)

        def forward(self, images):
            d = self.steps(images)[-1]
            return {"out": up(self.head(d), images), "boundary": self.boundary(self.e5(d))}

    assert wrap(Auxiliary()).features_from == ("e2", "e3", "e4")


def test_a_frozen_backbone_run_without_gradients():
    class Net(Encoder):
        def forward(self, images):
            with torch.no_grad():
                maps = self.steps(images)
            return up(self.head(maps[-1]), images)

    network = Net()
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    assert wrap(network).features_from == ("e2", "e3", "e4")


def test_a_level_that_rounds_its_grid_up():
    """MobileViTv2: the last stage works on patches of 2 x 2 cells; 2 x 3 of them become 2 x 4."""

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.conv = conv(24, 48, 2), conv(48, 48)

        def forward(self, x):
            x = self.down(x)
            h, w = x.shape[-2:]
            return self.conv(F.pad(x, (0, w % 2, 0, h % 2)))

    class Net(Encoder):
        def __init__(self):
            super().__init__()
            self.e5, self.head = Patches(), nn.Conv2d(48, K, 1)

        def forward(self, images):
            return up(self.head(self.e5(self.steps(images)[-1])), images)

    model = wrap(Net())
    assert model.features_from == ("e2", "e3", "e4", "e5")
    assert (model.strides, model.divisor) == ((4, 8, 16, 32), 64)


def test_an_encoder_that_is_called_more_than_once_is_refused():
    """A tap takes the maps of the last call: of a flipped image, or of a smaller one."""

    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Pyramid(), nn.Conv2d(24, K, 1)

        def forward(self, images):
            twice = [self.body(images)[-1], self.body(images.flip(3))[-1].flip(3)]
            return up(self.head(sum(twice)), images)

    class Branches(Flipped):  # ICNet: a shallow branch on the image, and an encoder on smaller ones
        def __init__(self):
            super().__init__()
            self.fine = nn.Sequential(conv(3, 4, 2), conv(4, 8, 2), conv(8, 24, 2))

        def forward(self, images):
            fine = self.fine(images)
            for scale in (0.5, 0.25):
                small = F.interpolate(images, scale_factor=scale, mode="bilinear")
                fine = fine + up(self.body(small)[-1], fine)
            return up(self.head(fine), images)

    with pytest.raises(pna.PnaError, match=r"^found no multi-scale .* outside of 'body', which is"):
        wrap(Flipped())
    with pytest.raises(pna.PnaError, match=r"^found no features .* of Branches: .* more than once"):
        wrap(Branches())


def test_maps_of_several_views_of_an_image_are_no_levels():
    class Views(Encoder):
        def forward(self, images):
            both = super().forward(torch.cat([images, images.flip(3)]))
            view, flipped = both.chunk(2)
            return view + flipped.flip(3)

    with pytest.raises(pna.PnaError, match=r"^found no multi-scale .* one for each, at two"):
        wrap(Views())


@pytest.mark.parametrize("kind", ["unpooled", "transposed"])
def test_a_decoder_after_a_pooling_is_no_level(kind):
    """SegNet: the last map of the encoder is pooled, and no module returns what is left of it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            widths = (8, 12, 16, 24)
            self.enc = nn.ModuleList(conv(a, b) for a, b in zip((3, *widths), widths, strict=False))
            self.enc.append(conv(24, 24))
            rise = nn.ConvTranspose2d(24, 24, 2, 2) if kind == "transposed" else conv(24, 24)
            self.rise, self.head = rise, nn.Conv2d(24, K, 1)

        def forward(self, images):
            x = images
            for step in self.enc:
                x, indices = F.max_pool2d(step(x), 2, return_indices=True)
            if kind == "unpooled":
                x = F.max_unpool2d(x, indices, 2)
            return up(self.head(self.rise(x)), images)

    model = wrap(Net())
    assert model.features_from == ("enc.2", "enc.3", "enc.4")
    assert (model.strides, model.divisor) == ((4, 8, 16), 32)


def test_stages_that_all_go_down_and_up_again():
    """U2-Net whose deepest stages have steps inside, too, in which they go beyond all levels."""

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            widths = (3, 12, 12, 12, 12)
            self.stages = nn.ModuleList(Ring(a, b, 1) for a, b in itertools.pairwise(widths))
            self.head = nn.Conv2d(12, K, 1)

        def forward(self, images):
            x = images
            for n, stage in enumerate(self.stages):
                x = stage(F.max_pool2d(x, 2) if n else x)
            return up(self.head(x), images)

    assert wrap(Nested()).features_from == ("stages.2", "stages.3")


def test_logits_of_many_pixels_in_one_are_no_level():
    class Shuffled(Encoder):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(24, K * 16, 1)

        def forward(self, images):
            return up(F.pixel_shuffle(self.head(self.steps(images)[-1]), 4), images)

    assert wrap(Shuffled()).features_from == ("e2", "e3", "e4")


def test_of_returned_maps_the_stem_is_no_level():
    """The hidden states of a ResNet begin with the map that its first stage works on."""

    class Hidden(Pyramid):
        def __init__(self):
            super().__init__()
            self.start = nn.Sequential(conv(3, 8, 2), conv(8, 8, 2))
            self.layers = nn.ModuleList([conv(8, 12), conv(12, 16, 2), conv(16, 24, 2)])

        def forward(self, images):
            maps = [self.start(images)]
            for layer in self.layers:
                maps.append(layer(maps[-1]))
            return maps

    model = wrap(OnMaps(Hidden(), 60))
    assert model.features_from == ("encoder[1]", "encoder[2]", "encoder[3]")


def test_returned_maps_in_which_the_next_tokens_begin():
    """MViT: the first block of a stage has its norm before it gets coarser."""

    class Hierarchy(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 16, 4, 4)
            self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(32)])
            self.widen = nn.ModuleList([nn.Linear(16, 32), nn.Linear(32, 48)])

        def forward(self, images):
            maps = [self.embed(images)]
            for norm, widen in zip(self.norms, self.widen, strict=True):
                _, _, h, w = maps[-1].shape
                tokens = widen(norm(maps[-1].flatten(2).transpose(1, 2)))
                maps.append(F.avg_pool2d(tokens.transpose(1, 2).unflatten(2, (h, w)), 2))
            return maps

    model = wrap(OnMaps(Hierarchy(), 96))
    assert model.features_from == ("encoder[0]", "encoder[1]", "encoder[2]")


def test_a_network_inside_of_another():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.criterion = Encoder(), nn.CrossEntropyLoss()

        def forward(self, images):
            return self.model(images)

    model = wrap(nn.DataParallel(Outer()))
    assert model.features_from == tuple(f"model.e{n}" for n in (2, 3, 4))
    assert model.coarse_from == "model.head"


def test_no_values_are_kept():
    """A probe that kept the maps would need gigabytes at large divisors."""

    class Watched(Encoder):
        alive = 0

        def forward(self, images):
            x, refs = images, []
            for step in (self.e1, self.e2, self.e3, self.e4):
                x = step(x)
                refs.append(weakref.ref(x))
            self.alive = max(self.alive, sum(ref() is not None for ref in refs))
            return up(self.head(x), images)

    network = Watched()
    wrap(network)
    assert network.alive == 1  # the last, which is in use
