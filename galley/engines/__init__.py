"""What runs models: `base.py` has the contracts, every other engine a file of its own."""

import os

# ONNX Runtime reports its use to its makers unless this is set when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
