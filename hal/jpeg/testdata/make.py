# Makes the pictures in baseline/ and progressive/, one a subsampling; Go writes only
# 4:2:0. Run with: pip install pillow==11.0.0 && python3 make.py
import math
import os

from PIL import Image

os.chdir(os.path.dirname(os.path.abspath(__file__)))
picture = Image.new("RGB", (83, 57))
picture.putdata([
	tuple(int(128 + 90 * math.sin(k + x / 11) * math.cos(y / 9)) for k in range(3)) for y in range(57) for x in range(83)
])
for progressive in False, True:
	folder = "progressive" if progressive else "baseline"
	for name, sampling in ("444", 0), ("422", 1), ("420", 2):
		picture.save(f"{folder}/{name}.jpg", quality=90, subsampling=sampling, progressive=progressive)
	picture.convert("L").save(f"{folder}/grey.jpg", quality=90, progressive=progressive)
