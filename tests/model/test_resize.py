import pytest
import torch
from torch.nn import functional as F

from pna.model.resize import resize


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 12), (17, 9)])
def test_it_is_interpolation_without_aligned_corners(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(x, size), expected, rtol=0, atol=0)
    expected = F.interpolate(x, size=size, mode="nearest")
    torch.testing.assert_close(resize(x, size, "nearest"), expected, rtol=0, atol=0)


def test_the_right_size_costs_nothing() -> None:
    x = torch.randn(1, 2, 4, 6)
    assert resize(x, x.shape[-2:]) is x


def test_mistakes_are_named() -> None:
    x = torch.randn(1, 2, 4, 6)
    with pytest.raises(ValueError, match=r"expected a \(B, C, H, W\) map, got \(2, 4, 6\)"):
        resize(x[0], (8, 8))
    with pytest.raises(ValueError, match="unknown resize mode 'bicubic'"):
        resize(x, (8, 8), "bicubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown resize mode 'bicubic'"):
        resize(x, (4, 6), "bicubic")  # type: ignore[arg-type]


def test_free_sizes_export() -> None:
    class Match(torch.nn.Module):
        def forward(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            return resize(x, like.shape[-2:])

    dim = torch.export.Dim
    shapes = (
        {2: dim("h", min=1, max=512), 3: dim("w", min=1, max=512)},
        {2: dim("H", min=1, max=512), 3: dim("W", min=1, max=512)},
    )
    maps = torch.randn(1, 2, 4, 6), torch.randn(1, 1, 8, 12)
    program = torch.export.export(Match(), maps, dynamic_shapes=shapes).module()
    for like_size in [(8, 12), (4, 6), (3, 17)]:
        like = torch.randn(1, 1, *like_size)
        expected = resize(maps[0], like_size)
        torch.testing.assert_close(program(maps[0], like), expected)
