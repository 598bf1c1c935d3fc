"""Parametrised micro-kernels, one file per algorithm: `make(problem, epilogue, tile) -> PrimFunc`.

| file | what it computes | its problem, tile and packing (without TVM) |
|---|---|---|
| direct_conv | any convolution over blocked activations | convolution, conv_tiles |
| depthwise_conv | one filter per channel | convolution, conv_tiles |
| nchw_conv, narrow_conv | first layer: plain input, blocked output | convolution, conv_tiles |
| matmul, dot, panel | matrix products, batched, constants packed or not | matmul_tiles |
| pool | maximum, average, global | pooling |

`blocked` is the activation layout, `window` a sliding window along one axis, `access` and `output_row` what
kernels over blocked activations share, `epilogue` how other work joins a kernel at its stores.
"""
