"""The only room that runs a model on images.

| file | holds |
|---|---|
| `tiling` | where tiles lie and how they are weighted; `TilingConfig` |
| `segment` | the run: whole, sliding window, test-time augmentation; label maps of every stage |
| `opening` | a model by name, folder or exported file |
| `predictor` | `Predictor`: one image, or a list, in any form; plain data out |
| `masks`, `refine` | masks of any kind and size; `pna.refine` by the bundled network |
| `upsample` | `pna.upsample` by the bundled network |
| `raster/` | rasters of any size, block by block: segmented, refined |
| `video` | videos, frame by frame |
| `progress` | how far a long run is |
| `runs` | what a long run depends on, so that no other goes on from its results |
| `devices` | which device, and errors about it |
"""
