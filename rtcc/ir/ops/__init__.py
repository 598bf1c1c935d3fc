"""The operators, one module per family; importing this registers all of them in `Op.registry`."""

from rtcc.ir.ops import control as control
from rtcc.ir.ops import indexing as indexing
from rtcc.ir.ops import kernel as kernel
from rtcc.ir.ops import math as math
from rtcc.ir.ops import movement as movement
from rtcc.ir.ops import plan as plan
from rtcc.ir.ops import selection as selection
from rtcc.ir.ops import shapes as shapes
from rtcc.ir.ops import signal as signal
from rtcc.ir.ops import tensor as tensor
