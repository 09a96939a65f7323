"""Small rasters for tests, written by rasterio."""

import numpy as np
import rasterio

UTM = "EPSG:32633"
PLACE = {"crs": UTM, "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}


def write_raster(path, values, *, place=PLACE, colors=None, alpha=None, **options):
    """Write (C, H, W) as a GeoTIFF; `colors` are the names of the bands' meanings."""
    count, height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=values.dtype,
        **place,
        **options,
    ) as file:
        file.write(values)
        if colors is not None:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colors]
    return path


def shades(height, width, *, bands=3, dtype="uint8", top=255, seed=0):
    """Smooth areas of many shades: (bands, H, W)."""
    random = np.random.default_rng(seed)
    small = random.random((bands, height // 9 + 2, width // 9 + 2))
    values = small.repeat(9, axis=1).repeat(9, axis=2)[:, :height, :width]
    noise = random.random((bands, height, width))
    return ((0.8 * values + 0.2 * noise) * top).astype(dtype)
