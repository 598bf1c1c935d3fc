"""The operators, one module per family; importing this registers all of them in `Op.registry`."""

from rtcc.ir.ops import activation as activation
from rtcc.ir.ops import attention as attention
from rtcc.ir.ops import axes as axes
from rtcc.ir.ops import cast as cast
from rtcc.ir.ops import control as control
from rtcc.ir.ops import element_selection as element_selection
from rtcc.ir.ops import fft_conv as fft_conv
from rtcc.ir.ops import fused as fused
from rtcc.ir.ops import indexing as indexing
from rtcc.ir.ops import linear_attention as linear_attention
from rtcc.ir.ops import math as math
from rtcc.ir.ops import movement as movement
from rtcc.ir.ops import nn as nn
from rtcc.ir.ops import normalization as normalization
from rtcc.ir.ops import plan as plan
from rtcc.ir.ops import pooling as pooling
from rtcc.ir.ops import quant as quant
from rtcc.ir.ops import recurrent as recurrent
from rtcc.ir.ops import reduce as reduce
from rtcc.ir.ops import regions_of_interest as regions_of_interest
from rtcc.ir.ops import resize as resize
from rtcc.ir.ops import sampling as sampling
from rtcc.ir.ops import shapes as shapes
from rtcc.ir.ops import signal as signal
from rtcc.ir.ops import softmax as softmax
from rtcc.ir.ops import winograd as winograd
