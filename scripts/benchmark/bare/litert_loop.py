"""The loop that people write with Python's ai-edge-litert, on the file of a JPEG.

litert_loop.py MODEL FRAMES PICTURE.jpg prints what the bare C loop prints. The
interpreter has its defaults, which is XNNPACK on one thread.
"""
import io
import json
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

model, frames, picture = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(picture, "rb") as f:
    file = f.read()
interpreter = Interpreter(model_path=model)
interpreter.allocate_tensors()
inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
_, height, width, _ = inputs["shape"]
began, best = 0.0, -1
for i in range(-1, frames):  # the first one pays for what is made once
    if i == 0:
        began = time.perf_counter()
    image = Image.open(io.BytesIO(file)).convert("RGB").resize((width, height))
    interpreter.set_tensor(inputs["index"], np.expand_dims(np.asarray(image, np.uint8), 0))
    interpreter.invoke()
    best = int(np.argmax(interpreter.get_tensor(outputs["index"])[0]))
    if i < 0:
        print("first", best, flush=True)
print(json.dumps({"fps": frames / (time.perf_counter() - began), "best": best}))
