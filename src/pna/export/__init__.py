"""Networks as files that run without pna: ONNX, and PyTorch's pt2.

| file | holds |
|---|---|
| `description` | the text inside a file: classes, colors, inputs, outputs |
| `graph` | a network with its inputs, outputs and free sizes, and its trace |
| `parity` | the file against the network, size by size |
| `int8` | static quantization of an ONNX file, and what it costs |
| `write` | `export_model`: a segmentation model into a file |
| `refiners` | the mask refiner and the upsampler into a file |
| `session` | files opened by ONNX Runtime |
| `onnx_segmenter` | a file as a segmenter, for `Predictor` and the command line |
"""
