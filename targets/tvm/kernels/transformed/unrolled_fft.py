# pyright: basic, reportOptionalOperand=false
"""Fourier transforms of a few vectors written out in full: every butterfly is code on whole vectors.

    X[k] = Σ_n x[n]·exp(∓2πi·k·n/N)                      forward -, inverse + (not divided by N)

Even lengths are halved (Cooley and Tukey 1965): with E and O the transforms of the even and the odd elements,

    X[k] = E[k] + w·O[k],   X[k + N/2] = E[k] - w·O[k],   w = exp(∓2πi·k/N)

Odd lengths are summed directly, n and N - n together. A twiddle factor is applied as a rotation by a tangent
of at most 1, whose scaling joins the additions: six fused multiply-adds a butterfly (E. Linzer and E. Feig,
"Implementation of efficient FFT algorithms on fused multiply-add architectures", 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder

Complex = tuple[Expr, Expr]
"""Real and imaginary part."""

TINY = 1e-12
"""Sines and cosines below are 0."""


class UnrolledFft:
    """Writes transforms into a kernel; N must have no factors but 2 and small odd ones."""

    def __init__(self, kernel: FunctionBuilder) -> None:
        self.kernel = kernel

    # ---- real numbers on one side

    def spectrum(self, x: Sequence[Expr]) -> tuple[list[Expr], list[Expr | None]]:
        """X[0 … N/2] of N real numbers: real parts, and imaginary parts (None where they are 0)."""
        count = len(x)
        if count % 2:
            return self._odd_spectrum(x)
        half = count // 2
        even, odd = self.spectrum(x[::2]), self.spectrum(x[1::2])
        real: list[Expr] = [None] * (half + 1)
        imaginary: list[Expr | None] = [None] * (half + 1)
        for k in range(half // 2 + 1):
            e, o = (even[0][k], even[1][k]), (odd[0][k], odd[1][k])
            if k == 0:
                real[0], real[half] = self._kept(e[0] + o[0]), self._kept(e[0] - o[0])
            elif 2 * k == half:
                real[k], imaginary[k] = e[0], self._kept(-o[0])
            else:
                (real[k], imaginary[k]), (other, conjugate) = self._butterfly(e, o, -2 * pi * k / count)
                real[half - k], imaginary[half - k] = other, self._kept(-conjugate)
        return real, imaginary

    def signal(self, real: Sequence[Expr], imaginary: Sequence[Expr | None], count: int) -> list[Expr]:
        """N times the N = count real numbers of such a spectrum."""
        if count % 2:
            return self._odd_signal(real, imaginary, count)
        half = count // 2
        even: tuple[list[Expr], list[Expr | None]] = ([], [])
        odd: tuple[list[Expr], list[Expr | None]] = ([], [])
        for k in range(half // 2 + 1):
            a, b = (real[k], imaginary[k]), (real[half - k], imaginary[half - k])
            if k == 0:
                e, o = (a[0] + b[0], None), (a[0] - b[0], None)
            elif 2 * k == half:
                e, o = (a[0] + a[0], None), (-(a[1] + a[1]), None)
            else:
                e = (a[0] + b[0], a[1] - b[1])
                d = (self._kept(a[0] - b[0]), self._kept(a[1] + b[1]))
                o = self._rotated(d, 2 * pi * k / count)
            for parts, value in ((even, e), (odd, o)):
                parts[0].append(self._kept(value[0]))
                parts[1].append(None if value[1] is None else self._kept(value[1]))
        result: list[Expr] = [None] * count
        result[::2], result[1::2] = self.signal(*even, half), self.signal(*odd, half)
        return result

    def _odd_spectrum(self, x: Sequence[Expr]) -> tuple[list[Expr], list[Expr | None]]:
        count = len(x)
        pairs = [(self._kept(x[n] + x[-n]), self._kept(x[n] - x[-n])) for n in range(1, count // 2 + 1)]
        total = x[0]
        for common, _ in pairs:
            total = total + common
        real: list[Expr] = [self._kept(total)]
        imaginary: list[Expr | None] = [None]
        for k in range(1, count // 2 + 1):
            a, b = x[0], None
            for n, (common, differing) in enumerate(pairs, 1):
                angle = 2 * pi * k * n / count
                a = a + common * _factor(cos(angle), common)
                term = differing * _factor(-sin(angle), differing)
                b = term if b is None else b + term
            real.append(self._kept(a))
            imaginary.append(self._kept(b))
        return real, imaginary

    def _odd_signal(self, real: Sequence[Expr], imaginary: Sequence[Expr | None], count: int) -> list[Expr]:
        result: list[Expr] = [None] * count
        total = real[0]
        for k in range(1, count // 2 + 1):
            total = total + real[k] * _factor(2.0, real[k])
        result[0] = self._kept(total)
        for n in range(1, count // 2 + 1):
            a, b = real[0], None
            for k in range(1, count // 2 + 1):
                angle = 2 * pi * k * n / count
                a = a + real[k] * _factor(2 * cos(angle), real[k])
                term = imaginary[k] * _factor(2 * sin(angle), real[k])
                b = term if b is None else b + term
            a, b = self._kept(a), self._kept(b)
            result[n], result[count - n] = self._kept(a - b), self._kept(a + b)
        return result

    # ---- complex numbers on both sides

    def transform(self, x: Sequence[Complex], sign: int) -> list[Complex]:
        """All of X; sign: of the exponent, -1 forward and 1 inverse."""
        count = len(x)
        if count % 2:
            return self._odd_transform(x, sign)
        even, odd = self.transform(x[::2], sign), self.transform(x[1::2], sign)
        sums = [
            self._butterfly(e, o, sign * 2 * pi * k / count)
            for k, (e, o) in enumerate(zip(even, odd, strict=True))
        ]
        return [first for first, _ in sums] + [second for _, second in sums]

    def _odd_transform(self, x: Sequence[Complex], sign: int) -> list[Complex]:
        count = len(x)
        if count == 1:
            return list(x)
        pairs = [
            tuple((self._kept(a + b), self._kept(a - b)) for a, b in zip(x[n], x[-n], strict=True))
            for n in range(1, count // 2 + 1)
        ]
        total = list(x[0])
        for parts in pairs:
            total = [total[0] + parts[0][0], total[1] + parts[1][0]]
        result: list[Complex] = [(self._kept(total[0]), self._kept(total[1]))] + [(None, None)] * (count - 1)
        for k in range(1, count // 2 + 1):
            common, differing = list(x[0]), [None, None]
            for n, parts in enumerate(pairs, 1):
                angle = sign * 2 * pi * k * n / count
                for part in (0, 1):
                    plus, minus = parts[part]
                    common[part] = common[part] + plus * _factor(cos(angle), plus)
                    term = minus * _factor(sin(angle), minus)
                    differing[part] = term if differing[part] is None else differing[part] + term
            a, b = (self._kept(each) for each in common)
            c, d = (self._kept(each) for each in differing)
            result[k] = self._kept(a - d), self._kept(b + c)
            result[count - k] = self._kept(a + d), self._kept(b - c)
        return result

    # ---- parts of both

    def _butterfly(self, e: Complex, o: Complex, angle: float) -> tuple[Complex, Complex]:
        """e + w·o and e - w·o, w = exp(i·angle)."""
        c, s = cos(angle), sin(angle)
        if abs(s) < TINY:
            turned, scale = o, c
        elif abs(c) < TINY:
            turned, scale = (o[1], o[0]), s
            return (
                (self._plus(e[0], turned[0], -scale), self._plus(e[1], turned[1], scale)),
                (self._plus(e[0], turned[0], scale), self._plus(e[1], turned[1], -scale)),
            )
        elif abs(c) >= abs(s):
            turned = self._plus(o[0], o[1], -s / c), self._plus(o[1], o[0], s / c)
            scale = c
        else:
            turned = self._minus(o[0], o[1], c / s), self._plus(o[0], o[1], c / s)
            scale = s
        first = self._plus(e[0], turned[0], scale), self._plus(e[1], turned[1], scale)
        return first, (self._plus(e[0], turned[0], -scale), self._plus(e[1], turned[1], -scale))

    def _rotated(self, value: Complex, angle: float) -> Complex:
        """value · exp(i·angle)."""
        real, imaginary = value
        c, s = _factor(cos(angle), real), _factor(sin(angle), real)
        return real * c - imaginary * s, imaginary * c + real * s

    def _plus(self, a: Expr, b: Expr, factor: float) -> Expr:
        """a + b · factor."""
        if abs(abs(factor) - 1) < TINY:
            return self._kept(a + b if factor > 0 else a - b)
        return self._kept(a + b * _factor(factor, b))

    def _minus(self, a: Expr, b: Expr, factor: float) -> Expr:
        """a · factor - b."""
        return self._kept(a - b if abs(factor - 1) < TINY else a * _factor(factor, a) - b)

    def _kept(self, value: Expr) -> Expr:
        return self.kernel.kept(value)


def _factor(number: float, like: Expr) -> Expr:
    return vm.constant(number, like)
