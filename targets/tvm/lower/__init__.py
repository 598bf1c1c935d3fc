"""From a kernel of the IR to TIR: element expressions, loop templates, anchors."""
