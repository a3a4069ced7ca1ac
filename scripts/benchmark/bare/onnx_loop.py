"""The loop that people write with Python's onnxruntime.

onnx_loop.py MODEL THREADS FRAMES prints {"invoke_p50_us":…}.
"""
import json
import statistics
import sys
import time

import numpy as np
import onnxruntime as ort

model, threads, frames = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
feed = {i.name: np.full(i.shape, 0.5, np.float32) for i in session.get_inputs()}
session.run(None, feed)
took = []
for _ in range(frames):
    start = time.perf_counter()
    session.run(None, feed)
    took.append((time.perf_counter() - start) * 1e6)
print(json.dumps({"invoke_p50_us": statistics.median(took)}))
