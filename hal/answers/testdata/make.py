#!/usr/bin/env python3
"""Makes the answers beside it: what Google's own Python package says of the models
and the pictures of scripts/setup, and of speech that espeak-ng speaks.

  python3 -m venv v
  v/bin/pip install ai-edge-litert==2.3.0 pillow==13.0.0 pymicro-features==2.0.2
  v/bin/python make.py ~/.cache/covey/models

It needs espeak-ng and ffmpeg.
"""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from PIL import Image
from pymicro_features import MicroFrontend

models, here = Path(sys.argv[1]), Path(__file__).parent


def load(path, shape=None):
    """The plain CPU: what all else is held against."""
    it = Interpreter(str(models / path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, num_threads=1)
    if shape:
        it.resize_tensor_input(it.get_input_details()[0]["index"], shape)
    it.allocate_tensors()
    return it


def run(it, x):
    it.set_tensor(it.get_input_details()[0]["index"], x)
    it.invoke()
    return [it.get_tensor(d["index"]) for d in it.get_output_details()]


def picture(path, size):
    return np.asarray(Image.open(models / path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))[None]


def short(values, digits=5):
    return [float(f"{v:.{digits}g}") for v in np.ravel(values)]


def save(name, answer):
    text = json.dumps(answer, separators=(",", ":"))
    (here / name).write_text(text.replace('],"', '],\n"').replace('],[', '],\n[') + "\n")


def pictures():
    scores = run(load("label_image/mobilenet_quant_v1_224.tflite"), picture("label_image/peacock.png", 224))[0][0]
    boxes, classes, sure, _ = run(load("ssd/detect.tflite"), picture("ssd/example.jpg", 300))
    seen = [i for i in range(len(sure[0])) if sure[0][i] >= 0.4]
    rgb = picture("segment/example.jpg", 257).astype(np.float32) / 127.5 - 1
    kinds = run(load("segment/deeplabv3_257_mv_gpu.tflite"), rgb)[0][0].argmax(-1)
    save("pictures.json", {
        "mobilenet": {"class": int(scores.argmax()), "score": int(scores.max())},
        "ssd": [{"class": int(classes[0][i]), "score": round(float(sure[0][i]), 3), "box": short(boxes[0][i])} for i in seen],
        "deeplab": {"pixels": {str(c): int(n) for c, n in zip(*np.unique(kinds, return_counts=True))}},
    })


def layers():
    """The convolutions of MobileNet in their order, and where their weights lie in
    the file: all that it takes to write the same network in another format."""
    it, file = load("label_image/mobilenet_quant_v1_224.tflite"), (models / "label_image/mobilenet_quant_v1_224.tflite").read_bytes()
    tensors = {t["index"]: t for t in it.get_tensor_details()}

    def of(i):
        scale, zero = tensors[i]["quantization"]
        return {"scale": float(scale), "zero": int(zero)}

    def weights(i):
        value = it.get_tensor(i).tobytes()
        assert file.count(value) == 1
        return {**of(i), "at": file.index(value), "shape": tensors[i]["shape"].tolist()}

    found = []
    for op in it._get_ops_details():
        name, (x, *parameters), y = op["op_name"], op["inputs"], op["outputs"][0]
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            found.append({"depthwise": name != "CONV_2D", "stride": int(-(-tensors[x]["shape"][1] // tensors[y]["shape"][1])),
                          "weights": weights(parameters[0]), "bias": weights(parameters[1]), "out": of(y)})
        else:
            found.append({"op": name, "out": of(y)})
    (here / "mobilenet.json").write_text(json.dumps({"in": of(it.get_input_details()[0]["index"]), "layers": found}, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")


def speech(text, name, quiet, seconds):
    """Says a text after some quiet, as 16-bit sound of 16 kHz."""
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", "/tmp/said.wav", text], check=True)
    subprocess.run(["ffmpeg", "-y", "-loglevel", "error", "-i", "/tmp/said.wav", "-af", f"adelay={int(quiet * 1000)},apad", "-t", str(seconds),
                    "-ar", "16000", "-ac", "1", "-bitexact", name], check=True)
    with wave.open(name) as w:
        return np.frombuffer(w.readframes(w.getnframes()), np.int16)


WINDOW, HOP, MELS, STEP, EMBEDDINGS = 1760, 1280, 76, 8, 16


def alexa():
    """Three models on each other: sound → mel bands → embeddings → the word."""
    sound = speech("Alexa!", str(here / "alexa.wav"), 1.5, 3).astype(np.float32)
    mel = load("audio/melspectrogram.tflite", [1, WINDOW])
    embed, word = load("audio/embedding_model.tflite"), load("audio/alexa.tflite")
    first, bands, embeddings, scores = None, [], [], []
    for at in range(0, len(sound) - WINDOW + 1, HOP):
        out = run(mel, sound[None, at:at + WINDOW])[0]
        if first is None and at >= 20 * HOP:
            first = out
        bands += list(out.reshape(-1, 32) / 10 + 2)
    for at in range(0, len(bands) - MELS + 1, STEP):
        embeddings.append(run(embed, np.array(bands[at:at + MELS], np.float32)[None, :, :, None])[0].ravel())
    for at in range(0, len(embeddings) - EMBEDDINGS + 1):
        scores.append(run(word, np.array(embeddings[at:at + EMBEDDINGS])[None])[0].item())
    print("alexa", [round(s, 3) for s in scores])
    save("alexa.json", {"mel20": short(first), "embeddings": [short(e) for e in embeddings], "scores": short(scores)})


def nabu():
    """A model that keeps its state: three rows of features a run."""
    sound = speech("Okay nabu", "/tmp/nabu.wav", 0.5, 2.2)
    frontend, rows, data = MicroFrontend(), [], sound.tobytes()
    while len(data) >= 320:
        got = frontend.process_samples(data[:320])
        data = data[2 * got.samples_read:]
        if got.features:
            rows.append(got.features)
    it = load("audio/okay_nabu.tflite")
    scale, zero = it.get_input_details()[0]["quantization"]
    x = np.clip(np.round(np.array(rows) / scale + zero), -128, 127).astype(np.int8)
    x = x[:len(x) // 3 * 3].reshape(-1, 1, 3, 40)
    (here / "nabu.features").write_bytes(x.tobytes())
    answers = bytes(run(it, one)[0].item() for one in x)
    print("nabu", list(answers))
    (here / "nabu.answers").write_bytes(answers)


pictures()
layers()
alexa()
nabu()
