"""From a kernel of the IR to TIR: rules by operator, the loops around them; importing this registers all."""

from rtcc.targets.tvm.lower import activation as activation
from rtcc.targets.tvm.lower import anchors as anchors
from rtcc.targets.tvm.lower import bounded as bounded
from rtcc.targets.tvm.lower import integer_anchors as integer_anchors
from rtcc.targets.tvm.lower import movement as movement
from rtcc.targets.tvm.lower import quantized as quantized
from rtcc.targets.tvm.lower import reduction as reduction
from rtcc.targets.tvm.lower import rows as rows
from rtcc.targets.tvm.lower import sampling as sampling
from rtcc.targets.tvm.lower import scalar as scalar
from rtcc.targets.tvm.lower import scatter as scatter
from rtcc.targets.tvm.lower import stored_anchors as stored_anchors
from rtcc.targets.tvm.lower import tables as tables
from rtcc.targets.tvm.lower import top_k as top_k
from rtcc.targets.tvm.lower import windows as windows
