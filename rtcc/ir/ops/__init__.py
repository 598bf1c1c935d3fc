"""The operators, one module per family; importing this registers all of them in `Op.registry`."""

from rtcc.ir.ops import kernel as kernel
from rtcc.ir.ops import math as math
from rtcc.ir.ops import plan as plan
