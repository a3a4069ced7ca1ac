# Writes what Pillow makes of the pictures that the tests use: bilinear, which for
# Pillow means a triangle as wide as the pixels it makes. Raw RGB, one file each.
#
#   . scripts/env && pip install pillow==11.0.0 && python3 hal/vision/testdata/pillow.py
import os

from PIL import Image

os.chdir(os.path.dirname(os.path.abspath(__file__)))
for name in "label_image/peacock.png", "ssd/example.jpg":
	picture = Image.open(os.path.join(os.environ["COVEY_MODELS"], name)).convert("RGB")
	w, h = picture.size
	base = name.split("/")[1].split(".")[0]
	for width, height, box in (
		(64, 64, None),
		(96, 54, None),
		(224, 224, (0.25, 0.25, 0.75, 0.75)),
	):
		box = box and (box[0] * w, box[1] * h, box[2] * w, box[3] * h)
		small = picture.resize((width, height), Image.BILINEAR, box=box)
		if width == 224:  # a part is enough
			small = small.crop((80, 80, 144, 144))
		with open(f"{base}-{width}x{height}.rgb", "wb") as f:
			f.write(small.tobytes())
	print(name, w, h)
