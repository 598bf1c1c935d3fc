"""GPU kernels without a GPU: their TIR run on the CPU, thread by thread, with every access checked.

    interpret(func, [input, weights, output])       # changes the arrays as a launch would

All threads of all blocks go in lockstep, as NumPy arrays with one element per thread; where they part, masks
say who takes part. What runs is what the CUDA code generator prints (`device_code.lowered_for_device`), and
`KernelFault` tells of what a GPU would do silently:

| code | what a thread did |
|---|---|
| out-of-bounds | an access outside its buffer |
| unwritten | a read of shared or local memory that nobody has written |
| in-flight | an access to shared memory that an asynchronous copy has not reached: a wait is missing |
| race | it reads or writes a cell that another thread writes, or writes one that another reads, with no \
barrier between |
| divergent | a barrier or an instruction of a warp that some of its threads do not reach |
| misaligned | a vector, copy or matrix row that does not begin at a multiple of its size |
"""

from rtcc.targets.cuda.simt.faults import KernelFault as KernelFault
from rtcc.targets.cuda.simt.machine import interpret as interpret
from rtcc.targets.cuda.simt.machine import interpret_lowered as interpret_lowered
