"""The x86-64 target: AVX-512, AVX2 and SSE4.2 machine code through LLVM."""

from rtcc.targets.x86.target import X86 as X86
