"""Parametrised micro-kernels: `make(problem, epilogue, tile) -> PrimFunc`, a folder per family of algorithms.

In each family `…_problem` says what a kernel is told, `…_tiles` how the work is cut up and which problems are
legal, `…_demand` what that asks of a machine; only what emits code needs TVM.

| module | what it has |
|---|---|
| convolution.conv_problem | what every convolution is told: shapes, pads, borders, the register tile |
| convolution.conv_tiles, convolution.conv_demand | of the direct and depthwise ones |
| convolution.direct_conv | any convolution over blocked activations; groups in whole blocks |
| convolution.depthwise_conv | one filter per channel, over blocked activations |
| convolution.copied_rows | the rows one reads, copied aside, where its output overwrites them |
| convolution.plain_conv | `direct_plain`: plain input, blocked output; a network's first layer |
| convolution.narrow_conv | its rows where there are few filters |
| convolution.im2col_conv, convolution.im2col_tiles | plain tensors, gathered: narrow groups, three axes |
| transformed.transformed_tiles, transformed.transformed_demand | blocks of tiles, what they take |
| transformed.tile_blocks | the loops over blocks of tiles, around transforms and products |
| transformed.winograd_conv, transformed.winograd_tiles | Winograd's convolution |
| transformed.columns_conv, transformed.columns_tiles | Winograd's along the columns, of plain input |
| transformed.constant_matrix | a transform's matrix times vectors, with few operations |
| transformed.fft_conv, transformed.fft_tiles | convolution by Fourier transforms |
| transformed.tile_fft | the transforms of a tile, along its height and its width |
| transformed.unrolled_fft | transforms of a few vectors, every butterfly written out |
| matrix_product.matmul, matrix_product.matmul_tiles, matrix_product.matmul_demand | batched or packed |
| matrix_product.stored_weights | constants in fewer bits, widened as they are read |
| matrix_product.dot | few rows times a transposed matrix |
| sparse.sparse_tiles, sparse.stored_matrix | blocks that are not zero: tiles, costs, operands |
| sparse.sparse_conv | gathered panels times those, lanes along the pixels |
| sparse.sparse_matmul | rows times those, lanes along the outputs of a block |
| integer.integer_tiles | tiles of sums of bytes, and what they ask of a machine |
| integer.integer_dot | four products of bytes in each lane, with VNNI and without |
| integer.integer_matrix, integer.integer_matrix_conv | two pixels by two filters to an instruction: I8MM |
| integer.integer_conv, integer.integer_depthwise | sums of quantised convolutions |
| integer.integer_grouped | in groups of channels that divide a block |
| integer.integer_plain | of a plain picture: a quantised network's first layer |
| integer.integer_matmul | sums of quantised matrix products |
| attention.attention, attention.attention_problem | softmax(Q·Kᵀ·scale + mask)·V, the scores never stored |
| attention.softmax | softmax over rows |
| pooling.pool, pooling.pool_problem | maximum, average, global |
| pooling.joined_pool, pooling.in_registers | what a convolution pools before it stores |
| numbers | floats or halves: what a kernel reads, multiplies and writes |
| blocked, blocked_access | activations in blocks of channels, and how kernels read and write them |
| window, window_taps | a sliding window along one axis, and which of its taps fall inside |
| tiling | how results are cut into register tiles, and what a step of one takes |
| output_row | a row of blocked results, tile by tile |
| panel | columns copied or transposed for a product's inner loop |
| epilogue | how other work joins a kernel at its stores |
| shares | how evenly steps are shared out among tasks |
"""
