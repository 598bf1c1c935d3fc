"""Kernels for GPUs: what threads of a block do together, where plain loops are not fast enough.

`make(problem, epilogue, tile)` gives the PrimFunc of a kernel; its parameters are its operands, those of
the epilogue, its result, and scratch where it needs some. Where a kernel is launched in several phases, other
functions give the rest of them. Problems are the ones of `targets/tvm/kernels`; modules that end in `_tiles`
need no TVM.

| module | what it has |
|---|---|
| gemm_tiles | tiles of matrix products: threads, shared memory, legality, cost, the best |
| gemm | the product itself: slabs of both operands copied ahead, sums in registers |
| slabs | where operands come from: packed constants, rows, columns, a convolution's gathered pixels |
| matmul | `matmul`: batched products and those by constants |
| partial_sums | sums whose terms blocks divide: scratch, and the kernel that adds up |
| stores | neighbouring results of a thread |
| fragment_tiles | tiles of products on tensor cores |
| fragments | these products: f16, bf16, tf32, int8, by `ldmatrix` and `mma` |
| tensor_matmul | products by constants on tensor cores |
| tensor_conv | convolution on tensor cores, over blocks of channels |
| depthwise_tiles, depthwise | convolution with one filter per channel |
| attention_tiles | tiles of attention: queries of a block, keys of a slab |
| attention | what both kernels share: copies, scores, statistics met slab by slab |
| attention_fragments, attention_lanes | `attention`: 16 bits on tensor cores, float32 by threads |
| implicit_gemm | `implicit_gemm`: convolution of plain tensors |
| winograd_tiles, winograd | `winograd2` to `winograd4`: transform, batched products, transform back |
"""
